"""Awkward, lifelike databases, and what a database holds by other means than the engine's."""

import re
from collections.abc import Callable
from typing import Any

from devtools.servers.mariadb import MariaDb

#: One column of every type with values at its borders, filled without the engine's help.
WIDE = [
    """CREATE TABLE wide (
        id INT PRIMARY KEY, i8 TINYINT, u8 TINYINT UNSIGNED, i16 SMALLINT, i24 MEDIUMINT,
        i64 BIGINT, u64 BIGINT UNSIGNED, zeros INT(8) UNSIGNED ZEROFILL, yes BOOL,
        d DECIMAL(65,30), small DECIMAL(5,2), f FLOAT, f2 FLOAT(10,3), db DOUBLE, b1 BIT(1), b64 BIT(64),
        day DATE, moment DATETIME(6), stamp TIMESTAMP(6) NULL, clock TIME(6), y YEAR,
        c CHAR(10), v VARCHAR(300), bin BINARY(8), vbin VARBINARY(300),
        tt TINYTEXT, t TEXT, mt MEDIUMTEXT, lt LONGTEXT, tb TINYBLOB, b BLOB, mb MEDIUMBLOB, lb LONGBLOB,
        e ENUM('a','it''s','ü'), s SET('x','y','z'), j JSON,
        g GEOMETRY, p POINT, u UUID, ip4 INET4, ip6 INET6,
        latin VARCHAR(50) CHARACTER SET latin1, sjis TEXT CHARACTER SET cp932, wide16 VARCHAR(50) CHARACTER SET utf16,
        koi TEXT CHARACTER SET koi8r, old VARCHAR(50) CHARACTER SET utf8mb3, binary_collated VARCHAR(50) COLLATE utf8mb4_bin,
        doubled INT AS (id * 2) VIRTUAL, tripled INT AS (id * 3) STORED,
        hidden INT INVISIBLE DEFAULT 7
    )""",
    "INSERT INTO wide (id) VALUES (1)",
    """INSERT INTO wide (id,i8,u8,i16,i24,i64,u64,zeros,yes,d,small,f,f2,db,b1,b64,day,moment,stamp,clock,y) VALUES
        (2,-128,255,-32768,-8388608,-9223372036854775808,18446744073709551615,42,1,
         12345678901234567890123456789012345.123456789012345678901234567890,-999.99,16777216,1234.567,
         1.7976931348623157e308,1,b'1111111111111111111111111111111111111111111111111111111111111111',
         '0000-00-00','9999-12-31 23:59:59.999999','2038-01-19 03:14:07.999999','-838:59:59.000000',1901),
        (3,127,0,32767,8388607,9223372036854775807,0,0,0,-0.000000000000000000000000000001,0,3.4028235e38,-0.001,
         -2.2250738585072014e-308,0,0,'1000-01-01','2024-00-00 00:00:00','1970-01-01 00:00:01.000001','838:59:59.000000',2155),
        (4,0,1,0,0,0,1,99999999,1,0.1,0.01,1.17549435e-38,0.1,-1.2345678901234567e-100,1,1,
         '2024-02-29','2024-12-31 23:59:59.5','2024-03-31 02:30:00','00:00:00.000001',0),
        (5,0,1,0,0,0,1,1,1,0,0,0.1,99999.5,0.1,0,9223372036854775808,'2024-02-31','2024-02-29 00:00:00',NULL,'-00:00:01',2000),
        (6,0,1,0,0,0,1,1,1,0,0,-0e0,0,-0e0,0,2,NULL,NULL,NULL,NULL,NULL)""",
    r"""INSERT INTO wide (id,c,v,bin,vbin,tt,t,mt,lt,e,s,latin,sjis,wide16,koi,old,binary_collated,hidden) VALUES
        (10,'','',x'',x'','','','','','a','','','','','','','',NULL),
        (11,'  pad ','NULL',x'0000000000000000',x'00',"it's",'back\\slash','quote"''`','ends;\n',
         'it''s','x,z','é€ß','日本語ソ表～','𝄞 emoji 😀','Привет','Grüße','a\0b\Z\r\n\t',8),
        (12,'日本','a\nb\r\nc',x'DEADBEEF00FF5C27',x'5C275C5C0A0D1A00',';\n);\n(','\0','\Z',REPEAT('Zeile;\n',2000),
         'ü','x,y,z','\\','表','\'','Ж','ü','  ',9)""",
    "INSERT INTO wide (id,tb,b,mb,lb) SELECT 20, x'00', x'5C', REPEAT(x'000A0D1A275C22FF',500), REPEAT(x'FF00',100000)",
    "INSERT INTO wide (id,t,lt,b) VALUES (21,REPEAT('ä''\\\\\n',100),NULL,REPEAT('x',699)),(22,'',REPEAT('y',701),NULL)",
    "INSERT INTO wide (id,sjis,lt,koi) VALUES (23,REPEAT('表ソ',400),REPEAT('z',10),REPEAT('Ы',900))",
    # Bytes that cp932 has twice: a conversion to Unicode and back would merge them.
    "INSERT INTO wide (id,sjis) VALUES (24,_cp932 x'8790EEF9FA54'), (25,_cp932 x'81E0')",
    """INSERT INTO wide (id,j,g,p,u,ip4,ip6) VALUES
        (30,'{"a": [1, 2.50, null], "ü": "\\\\n"}',ST_GeomFromText('POLYGON((0 0,0 3,3 3,0 0))',4326),ST_GeomFromText('POINT(1.5 -2.25)'),
         '123e4567-e89b-12d3-a456-426614174000','192.168.0.1','2001:db8::ff00:42:8329')""",
    "INSERT INTO wide (id,g) SELECT 31, ST_GeomFromText(CONCAT('LINESTRING(',GROUP_CONCAT(CONCAT(seq,' ',seq)),')')) FROM seq_1_to_500",
]

#: Tables that other tools trip over, and everything that is not a table.
SHOP = [
    """CREATE TABLE customers (id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, name VARCHAR(80) NOT NULL,
        email VARCHAR(120) UNIQUE, notes TEXT, created DATETIME DEFAULT CURRENT_TIMESTAMP, favourite INT UNSIGNED NULL,
        KEY (name)) COMMENT='Customers; "quoted" ünï\\code'""",
    """CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, customer INT UNSIGNED NOT NULL, total DECIMAL(10,2),
        placed DATETIME, note VARCHAR(200), label VARCHAR(250) AS (CONCAT(customer, ':', note)) PERSISTENT,
        CHECK (total >= 0), FOREIGN KEY (customer) REFERENCES customers (id))""",
    "ALTER TABLE customers ADD FOREIGN KEY (favourite) REFERENCES customers (id)",
    "CREATE TABLE a_to_b (id INT PRIMARY KEY, b INT)",
    "CREATE TABLE b_to_a (id INT PRIMARY KEY, a INT, FOREIGN KEY (a) REFERENCES a_to_b (id))",
    "ALTER TABLE a_to_b ADD FOREIGN KEY (b) REFERENCES b_to_a (id)",
    "SET foreign_key_checks=0",
    "INSERT INTO a_to_b VALUES (1,1),(2,NULL)",
    "INSERT INTO b_to_a VALUES (1,1)",
    "SET foreign_key_checks=1",
    """INSERT INTO customers (name,email,notes,created) SELECT ELT(1+seq%6,'Zoë','Bob','日本語','O''Neil','tab\ttab','emoji 😀'),
        IF(seq%11=0,NULL,CONCAT('user',seq,'@example.com')), IF(seq%7=0,NULL,REPEAT(CONCAT('lorem ipsum ',MD5(seq),'\\n'),seq%40)),
        '2020-01-01' + INTERVAL seq MINUTE FROM seq_1_to_8000""",
    "UPDATE customers SET favourite = 1 + id % 100",
    """INSERT INTO orders (customer,total,placed,note) SELECT 1+seq%8000, seq/7, '2024-01-01' + INTERVAL seq SECOND,
        CONCAT(MD5(seq), ' ', SHA1(seq)) FROM seq_1_to_60000""",
    "CREATE TABLE no_key (a INT, b VARCHAR(20))",
    "INSERT INTO no_key VALUES (1,'same'),(1,'same'),(NULL,NULL),(2,'')",
    "CREATE TABLE nothing_in_it (id INT PRIMARY KEY)",
    "CREATE TABLE myisam_table (id INT PRIMARY KEY, t TEXT, FULLTEXT (t)) ENGINE=MyISAM",
    "INSERT INTO myisam_table SELECT seq, CONCAT('words and words ', seq) FROM seq_1_to_100",
    "CREATE TABLE `odd ``name; ü` (`select` INT, `a``b` VARCHAR(10), `semi;colon` INT, PRIMARY KEY (`select`))",
    "INSERT INTO `odd ``name; ü` VALUES (1,'x',2),(-1,NULL,NULL)",
    "CREATE TABLE Cased (id INT PRIMARY KEY)",
    "CREATE TABLE cased (id INT PRIMARY KEY)",
    "INSERT INTO Cased VALUES (1)",
    "INSERT INTO cased VALUES (2)",
    """CREATE TABLE parts (id INT, day DATE, PRIMARY KEY (id, day)) PARTITION BY RANGE (YEAR(day))
        (PARTITION p0 VALUES LESS THAN (2023), PARTITION p1 VALUES LESS THAN MAXVALUE)""",
    "INSERT INTO parts SELECT seq, '2022-06-01' + INTERVAL seq DAY FROM seq_1_to_500",
    "CREATE SEQUENCE numbers START WITH 100 INCREMENT BY 5",
    "CREATE TABLE numbered (id INT DEFAULT NEXTVAL(numbers), t INT)",
    "INSERT INTO numbered (t) VALUES (1),(2)",
    "CREATE FUNCTION twice (n INT) RETURNS INT DETERMINISTIC RETURN n * 2",
    """CREATE PROCEDURE many_lines (IN n INT) COMMENT 'a;b'
BEGIN
  -- a comment; with a semicolon
  DECLARE i INT DEFAULT 0;
  WHILE i < n DO
    SET i = i + 1;
    SELECT 'text;
with lines;
', i;
  END WHILE;
END""",
    # Each view uses one that sorts after it; the last one uses a function.
    "CREATE VIEW zz_base AS SELECT id, twice(id) AS doubled, note FROM orders WHERE id <= 10",
    "CREATE VIEW mid AS SELECT id, doubled FROM zz_base",
    "CREATE DEFINER=`someone`@`%` SQL SECURITY INVOKER VIEW above AS SELECT m.id, z.note FROM mid m JOIN zz_base z USING (id)",
    """CREATE TRIGGER orders_before BEFORE INSERT ON orders FOR EACH ROW
BEGIN
  SET NEW.note = CONCAT(NEW.note, ' by trigger;
');
END""",
    "CREATE TRIGGER orders_second BEFORE INSERT ON orders FOR EACH ROW FOLLOWS orders_before SET NEW.total = NEW.total + 1",
    """CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 03:00:00' DISABLE COMMENT 'e' DO
BEGIN
  DELETE FROM orders WHERE placed < NOW() - INTERVAL 10 YEAR;
END""",
]


def for_mysql(statements: list[str]) -> list[str]:
    """Without what only MariaDB has: sequences, and its types for UUIDs and addresses."""
    left = [s for s in statements if not re.search("SEQUENCE|NEXTVAL|INTO numbered", s)]
    uuid = "'123e4567-e89b-12d3-a456-426614174000','192.168.0.1','2001:db8::ff00:42:8329'"
    return [
        s.replace("u UUID, ip4 INET4, ip6 INET6,", "v4 VECTOR(4),")
        .replace("(id,j,g,p,u,ip4,ip6)", "(id,j,g,p,v4)")
        .replace(uuid, "STRING_TO_VECTOR('[1.5,-2,3e-30,0]')")
        for s in left
    ]


def make(server: MariaDb, database: str, statements: list[str]) -> None:
    """A new database, filled."""
    server.sql(f"CREATE DATABASE {database}")
    connection = server.connect(database)
    with connection.cursor() as cursor:
        cursor.execute(
            "SET sql_mode='NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', time_zone='+00:00'"
        )
        for statement in statements:
            for one in server.dialect(statement):
                cursor.execute(one)
    connection.close()


Ask = Callable[[str], list[tuple[Any, ...]]]


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _rows(ask: Ask, table: str, definition: str) -> Any:
    """Something that tells whether two tables hold the same rows."""
    count = int(ask(f"SELECT COUNT(*) FROM {table}")[0][0])
    if "GENERATED ALWAYS" not in definition and "SYSTEM VERSIONING" not in definition:
        return count, ask(f"CHECKSUM TABLE {table} EXTENDED")[0][1]
    # CHECKSUM TABLE takes in memory at random for tables with computed columns, and the times
    # of versions.
    columns = [f"`{row[0]}`" for row in ask(f"SHOW COLUMNS FROM {table}")]
    if count < 1000:
        values = ",".join(f"{c},HEX({c})" for c in columns)
        return sorted(map(repr, ask(f"SELECT {values} FROM {table}")))
    values = ",".join(f"IFNULL(HEX(CAST({c} AS BINARY)),'null')" for c in columns)
    return count, ask(f"SELECT SUM(CRC32(CONCAT_WS(',',{values}))) FROM {table}")[0][0]


def contents(server: MariaDb, database: str) -> dict[str, Any]:
    """Definitions, checksums and counts of everything in a database, as the server tells them."""
    if not server.sql(
        f"SELECT 1 FROM information_schema.schemata WHERE schema_name = '{database}'"
    ):
        return {}
    connection = server.connect(database)
    found: dict[str, Any] = {}
    connection.query("SET SESSION sql_mode=''")
    connection.use_unicode, connection.decoders = False, {}

    def ask(sql: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return [tuple(map(_text, row)) for row in cursor.fetchall()]

    for name, kind in ask("SHOW FULL TABLES"):
        quoted = "`" + name.replace("`", "``") + "`"
        what = {"VIEW": "VIEW", "SEQUENCE": "SEQUENCE"}.get(kind, "TABLE")
        text = re.sub(r" AUTO_INCREMENT=\d+", "", ask(f"SHOW CREATE {what} {quoted}")[0][1])
        text = text.replace(f"nextval(`{database}`.", "nextval(")
        if what == "VIEW":
            text = text.replace(f"`{database}`.", "")
        found[f"{kind} {name}"] = text
        if what == "TABLE":
            found[f"rows of {name}"] = _rows(ask, quoted, text)
        if what == "SEQUENCE":
            found[f"value of {name}"] = ask(f"SELECT next_not_cached_value FROM {quoted}")[0][0]
    for name, *_ in ask("SHOW TRIGGERS"):
        row = ask(f"SHOW CREATE TRIGGER `{name}`")[0]
        found[f"trigger {name}"] = [row[1], row[2].replace(f"{database}.", ""), *row[3:5]]
    for kind in ("FUNCTION", "PROCEDURE"):
        for row in ask(f"SHOW {kind} STATUS WHERE db = '{database}'"):
            found[f"{kind} {row[1]}"] = ask(f"SHOW CREATE {kind} `{row[1]}`")[0][1:5]
    for row in ask("SHOW EVENTS"):
        found[f"event {row[1]}"] = ask(f"SHOW CREATE EVENT `{row[1]}`")[0][1:6]
    connection.close()
    return found
