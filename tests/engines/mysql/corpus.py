"""Small databases in the manner of well-known applications: their types, keys, habits and oddities."""

LARAVEL = [
    "SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci",
    """CREATE TABLE users (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(255) NOT NULL,
        email VARCHAR(255) NOT NULL, email_verified_at TIMESTAMP NULL, password VARCHAR(255) NOT NULL,
        remember_token VARCHAR(100) NULL, created_at TIMESTAMP NULL, updated_at TIMESTAMP NULL)
        DEFAULT CHARACTER SET utf8mb4 COLLATE 'utf8mb4_unicode_ci'""",
    "ALTER TABLE users ADD UNIQUE users_email_unique(email)",
    """CREATE TABLE personal_access_tokens (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        tokenable_type VARCHAR(255) NOT NULL, tokenable_id BIGINT UNSIGNED NOT NULL, token VARCHAR(64) NOT NULL,
        abilities TEXT NULL, last_used_at TIMESTAMP NULL, payload JSON NULL)
        DEFAULT CHARACTER SET utf8mb4 COLLATE 'utf8mb4_unicode_ci'""",
    "ALTER TABLE personal_access_tokens ADD INDEX tokenable_index(tokenable_type, tokenable_id)",
    """CREATE TABLE posts (id CHAR(36) NOT NULL, user_id BIGINT UNSIGNED NOT NULL, kind ENUM('draft','live') NOT NULL
        DEFAULT 'draft', body LONGTEXT NOT NULL, price DECIMAL(8,2) NOT NULL DEFAULT '0.00', id_B INT,
        deleted_at TIMESTAMP NULL, PRIMARY KEY (id)) DEFAULT CHARACTER SET utf8mb4 COLLATE 'utf8mb4_unicode_ci'""",
    "ALTER TABLE posts ADD CONSTRAINT posts_user_id_foreign FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE",
    "ALTER TABLE posts ALTER COLUMN id_B DROP DEFAULT",
    "INSERT INTO users (name, email, password, created_at) VALUES ('Zoë', 'zoe@example.com', '$2y$10$x', '2024-05-01 10:00:00'), ('🙂', 'b@example.com', '', NULL)",
    "INSERT INTO posts (id, user_id, body, id_B) VALUES ('9b3f', 1, 'text', NULL), ('9b40', 2, REPEAT('long ', 400), 5)",
    "INSERT INTO personal_access_tokens (tokenable_type, tokenable_id, token, payload) VALUES ('App\\\\Models\\\\User', 1, 'x', '{\"a\": [1, null]}')",
    "CREATE VIEW live_posts AS SELECT p.id, u.name FROM posts p JOIN users u ON u.id = p.user_id WHERE p.kind = 'live'",
]

WORDPRESS = [
    "SET sql_mode = 'ALLOW_INVALID_DATES'",
    "SET NAMES utf8mb4 COLLATE utf8mb4_unicode_520_ci",
    """CREATE TABLE wp_posts (ID bigint(20) unsigned NOT NULL auto_increment, post_author bigint(20) unsigned NOT NULL default '0',
        post_date datetime NOT NULL default '0000-00-00 00:00:00', post_content longtext NOT NULL, post_title text NOT NULL,
        post_status varchar(20) NOT NULL default 'publish', post_name varchar(200) NOT NULL default '', guid varchar(255) NOT NULL default '',
        comment_count bigint(20) NOT NULL default '0', PRIMARY KEY (ID), KEY post_name (post_name(191)),
        KEY type_status_date (post_status,post_date,ID), KEY post_author (post_author))
        DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_520_ci""",
    """CREATE TABLE wp_options (option_id bigint(20) unsigned NOT NULL auto_increment, option_name varchar(191) NOT NULL default '',
        option_value longtext NOT NULL, autoload varchar(20) NOT NULL default 'yes', PRIMARY KEY (option_id),
        UNIQUE KEY option_name (option_name), KEY autoload (autoload)) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_520_ci""",
    "CREATE TABLE wp_old_plugin (id MEDIUMINT(9) NOT NULL AUTO_INCREMENT, note TINYTEXT, blobby BLOB, PRIMARY KEY (id)) ENGINE=MyISAM DEFAULT CHARSET=latin1",
    "INSERT INTO wp_posts (post_content, post_title) VALUES ('<!-- wp:paragraph -->', 'Hello'), (REPEAT('é;\\n', 900), 'It''s')",
    "INSERT INTO wp_options (option_name, option_value) VALUES ('siteurl', 'https://example.com'), ('cron', 'a:2:{i:1;s:3:\"x;\\n\";}')",
    "INSERT INTO wp_old_plugin (note, blobby) VALUES ('caf\u00e9', x'00FF')",
    "DELETE FROM wp_posts WHERE ID = 2",
]

ROUNDCUBE = [
    "SET foreign_key_checks=0",
    """CREATE TABLE session (sess_id varchar(128) NOT NULL, changed datetime NOT NULL DEFAULT '1000-01-01 00:00:00', ip varchar(40) NOT NULL,
        vars mediumtext NOT NULL, PRIMARY KEY(sess_id), INDEX changed_index (changed))
        ROW_FORMAT=DYNAMIC ENGINE=INNODB CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci""",
    """CREATE TABLE users (user_id int(10) UNSIGNED NOT NULL AUTO_INCREMENT, username varchar(128) BINARY NOT NULL, mail_host varchar(128) NOT NULL,
        created datetime NOT NULL DEFAULT '1000-01-01 00:00:00', last_login datetime DEFAULT NULL, language varchar(16), preferences longtext,
        PRIMARY KEY(user_id), UNIQUE username (username, mail_host)) ROW_FORMAT=DYNAMIC ENGINE=INNODB CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci""",
    """CREATE TABLE cache (user_id int(10) UNSIGNED NOT NULL, cache_key varchar(128) BINARY NOT NULL, expires datetime DEFAULT NULL, data longtext NOT NULL,
        PRIMARY KEY (user_id, cache_key), CONSTRAINT user_id_fk_cache FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE ON UPDATE CASCADE,
        INDEX expires_index (expires)) ROW_FORMAT=DYNAMIC ENGINE=INNODB CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci""",
    "INSERT INTO users (username, mail_host, language) VALUES ('Ann', 'localhost', 'de_DE'), ('ann', 'localhost', NULL)",
    "INSERT INTO cache VALUES (1, 'Key', NULL, 'value'), (1, 'key', '2025-01-01', '')",
    "INSERT INTO session VALUES ('abc', '2024-01-01', '127.0.0.1', 'x|s:1:\"y\";')",
]

ZABBIX = [
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE hosts (hostid bigint unsigned NOT NULL, host varchar(128) DEFAULT '' NOT NULL, status integer DEFAULT '0' NOT NULL, name_upper varchar(128) DEFAULT '' NOT NULL, PRIMARY KEY (hostid)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
    "CREATE INDEX hosts_1 ON hosts (host)",
    "CREATE TABLE items (itemid bigint unsigned NOT NULL, hostid bigint unsigned NOT NULL, key_ varchar(2048) DEFAULT '' NOT NULL, params text NOT NULL, formula double precision DEFAULT '0.0000' NOT NULL, PRIMARY KEY (itemid)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
    "CREATE INDEX items_1 ON items (hostid,key_(764))",
    "ALTER TABLE items ADD CONSTRAINT c_items_1 FOREIGN KEY (hostid) REFERENCES hosts (hostid) ON DELETE CASCADE",
    "CREATE TABLE history (itemid bigint unsigned NOT NULL, clock integer DEFAULT '0' NOT NULL, value double precision DEFAULT '0' NOT NULL, ns integer DEFAULT '0' NOT NULL, PRIMARY KEY (itemid,clock,ns)) PARTITION BY RANGE (clock) (PARTITION p1 VALUES LESS THAN (1000) COMMENT 'old', PARTITION p2 VALUES LESS THAN MAXVALUE)",
    "CREATE TRIGGER hosts_insert BEFORE INSERT ON hosts FOR EACH ROW SET NEW.name_upper = UPPER(NEW.host)",
    """CREATE TRIGGER hosts_update AFTER UPDATE ON hosts FOR EACH ROW
BEGIN
  IF NEW.host <> OLD.host THEN
    UPDATE items SET params = NEW.host WHERE hostid = NEW.hostid;
  END IF;
END""",
    "INSERT INTO hosts (hostid, host) VALUES (1, 'Zabbix server'), (2, 'zabbix SERVER')",
    "INSERT INTO items VALUES (1, 1, 'system.cpu.load[all,avg1]', '', 0.1)",
    "INSERT INTO history VALUES (1, 5, 1.5, 0), (1, 5000, 1e-300, 999)",
]

MEDIAWIKI = [
    "CREATE TABLE actor (actor_id BIGINT UNSIGNED AUTO_INCREMENT NOT NULL, actor_user INT UNSIGNED DEFAULT NULL, actor_name VARBINARY(255) NOT NULL, UNIQUE INDEX actor_user (actor_user), UNIQUE INDEX actor_name (actor_name), PRIMARY KEY(actor_id)) DEFAULT CHARSET=binary",
    "CREATE TABLE page (page_id INT UNSIGNED AUTO_INCREMENT NOT NULL, page_namespace INT NOT NULL, page_title VARBINARY(255) NOT NULL, page_random DOUBLE PRECISION NOT NULL, page_touched BINARY(14) NOT NULL, UNIQUE INDEX page_name_title (page_namespace, page_title), INDEX page_random (page_random), PRIMARY KEY(page_id)) DEFAULT CHARSET=binary",
    "CREATE TABLE text (old_id INT UNSIGNED AUTO_INCREMENT NOT NULL, old_text MEDIUMBLOB NOT NULL, old_flags TINYBLOB NOT NULL, PRIMARY KEY(old_id)) DEFAULT CHARSET=binary",
    "CREATE TABLE searchindex (si_page INT UNSIGNED NOT NULL, si_title VARCHAR(255) DEFAULT '' NOT NULL, si_text MEDIUMTEXT NOT NULL, UNIQUE KEY si_page (si_page), FULLTEXT si_title (si_title), FULLTEXT si_text (si_text)) ENGINE=MyISAM DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE image (img_name VARBINARY(255) DEFAULT '' NOT NULL, img_size INT UNSIGNED DEFAULT 0 NOT NULL, img_media_type ENUM('UNKNOWN', 'BITMAP', 'DRAWING') DEFAULT NULL, img_timestamp BINARY(14) NOT NULL, PRIMARY KEY(img_name)) DEFAULT CHARSET=binary",
    "INSERT INTO actor (actor_name) VALUES ('MediaWiki default'), (x'C3A4FF')",
    "INSERT INTO page (page_namespace, page_title, page_random, page_touched) VALUES (0, 'Main_Page', 0.123456789012345, '20240101000000')",
    "INSERT INTO text (old_text, old_flags) VALUES (REPEAT(x'789C00FF', 500), 'utf-8,gzip')",
    "INSERT INTO searchindex VALUES (1, 'main page', 'words of the main page')",
    "INSERT INTO image VALUES ('A.png', 5, 'BITMAP', '20240101000000'), ('B.svg', 6, NULL, '20240101000000')",
]

DJANGO = [
    "CREATE TABLE `django_content_type` (`id` integer AUTO_INCREMENT NOT NULL PRIMARY KEY, `app_label` varchar(100) NOT NULL, `model` varchar(100) NOT NULL)",
    "ALTER TABLE `django_content_type` ADD CONSTRAINT `django_content_type_app_label_model_76bd3d3b_uniq` UNIQUE (`app_label`, `model`)",
    "CREATE TABLE `auth_permission` (`id` integer AUTO_INCREMENT NOT NULL PRIMARY KEY, `name` varchar(255) NOT NULL, `content_type_id` integer NOT NULL, `codename` varchar(100) NOT NULL)",
    "ALTER TABLE `auth_permission` ADD CONSTRAINT `auth_permission_content_type_id_2f476e4b_fk_django_co` FOREIGN KEY (`content_type_id`) REFERENCES `django_content_type` (`id`)",
    "CREATE TABLE `django_session` (`session_key` varchar(40) NOT NULL PRIMARY KEY, `session_data` longtext NOT NULL, `expire_date` datetime(6) NOT NULL)",
    "CREATE INDEX `django_session_expire_date_a5c62663` ON `django_session` (`expire_date`)",
    "CREATE TABLE `app_thing` (`id` bigint AUTO_INCREMENT NOT NULL PRIMARY KEY, `uuid` char(32) NOT NULL, `flag` bool NOT NULL, `ratio` double precision NULL, `span` bigint NULL, `count` smallint UNSIGNED NOT NULL CHECK (`count` >= 0), `data` json NOT NULL, `day` date NULL, `slug` varchar(50) COLLATE utf8mb4_bin NOT NULL, `ip` char(39) NULL)",
    "ALTER TABLE `app_thing` ADD COLUMN `later` varchar(10) DEFAULT 'x' NOT NULL",
    "ALTER TABLE `app_thing` ALTER COLUMN `later` DROP DEFAULT",
    "ALTER TABLE `app_thing` ADD COLUMN `upper_slug` varchar(50) GENERATED ALWAYS AS (UPPER(`slug`)) STORED",
    "ALTER TABLE `app_thing` ADD CONSTRAINT `thing_range` CHECK (`ratio` IS NULL OR (`ratio` >= 0 AND `ratio` <= 1.5e0))",
    "INSERT INTO `django_content_type` (`app_label`, `model`) VALUES ('auth', 'user')",
    "INSERT INTO `auth_permission` (`name`, `content_type_id`, `codename`) VALUES ('Can add', 1, 'add_user')",
    "INSERT INTO `django_session` VALUES ('k', 'data', '2024-01-01 00:00:00.123456')",
    "INSERT INTO `app_thing` (`uuid`, `flag`, `ratio`, `count`, `data`, `slug`, `later`) VALUES ('a', 1, 0.1, 3, '{\"k\": \"v\"}', 'A', 'y'), ('b', 0, NULL, 0, '[]', 'a', 'z')",
]

#: Anything that makes the server print a definition in other words than it was given, and more.
HABITS = [
    "SET sql_mode = 'ANSI_QUOTES'",
    'CREATE TABLE "mixed" ("id" INT PRIMARY KEY, "a" VARCHAR(9) CHARACTER SET latin1, "b" VARCHAR(9) COLLATE latin1_bin, "c" TEXT CHARACTER SET utf8mb4, "d" ENUM(\'CHARACTER SET x\', \' COLLATE y\') COMMENT \'it\'\'s COLLATE z\') DEFAULT CHARSET=latin1',
    "SET sql_mode = ''",
    "ALTER TABLE mixed ADD COLUMN e VARCHAR(9), DEFAULT CHARSET=utf8mb4",
    "ALTER TABLE mixed ADD COLUMN f VARCHAR(9) FIRST, ADD KEY (a, b(3)), ADD UNIQUE KEY u (e)",
    "CREATE TABLE copied LIKE mixed",
    "CREATE TABLE selected AS SELECT 1 AS one, 'text' AS word, NOW() AS moment, 1.5 AS number, NULL AS nothing, a, c FROM mixed",
    "CREATE TABLE converted (id INT PRIMARY KEY, s VARCHAR(20)) DEFAULT CHARSET=latin1",
    "ALTER TABLE converted CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE counted (id INT AUTO_INCREMENT PRIMARY KEY, s VARCHAR(3)) AUTO_INCREMENT = 77 COMMENT='; AUTO_INCREMENT=5;'",
    "CREATE TABLE parted (id INT, d DATE, PRIMARY KEY (id, d)) PARTITION BY HASH (id) PARTITIONS 4",
    "INSERT INTO mixed (id, a, b, c, d, e) VALUES (1, 'ä', 'b', 'c', ' COLLATE y', 'e')",
    "INSERT INTO copied SELECT * FROM mixed",
    "INSERT INTO counted (s) VALUES ('a'), ('b')",
    "DELETE FROM counted WHERE s = 'b'",
    "CREATE VIEW nested AS SELECT m.id, (SELECT COUNT(*) FROM counted k WHERE k.id > m.id) AS n, CASE WHEN m.a = 'x' THEN 1 ELSE 2 END AS k, m.id + 1 FROM mixed m LEFT JOIN (copied c JOIN converted v ON v.id = c.id) ON m.id = c.id WHERE m.id IN (1, 2) AND m.a NOT LIKE 'z%' ORDER BY m.id LIMIT 5",
    "CREATE ALGORITHM=TEMPTABLE SQL SECURITY INVOKER VIEW grouped AS SELECT d, COUNT(DISTINCT a) AS n FROM mixed GROUP BY d HAVING n > 0 UNION ALL SELECT 'x', 1",
    "CREATE VIEW checked AS SELECT id, a FROM mixed WHERE id > 0 WITH LOCAL CHECK OPTION",
    "CREATE VIEW common AS WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT n, ROW_NUMBER() OVER (ORDER BY n DESC) AS w FROM r",
]

SCHEMAS = {
    "laravel": LARAVEL,
    "wordpress": WORDPRESS,
    "roundcube": ROUNDCUBE,
    "zabbix": ZABBIX,
    "mediawiki": MEDIAWIKI,
    "django": DJANGO,
    "habits": HABITS,
}
