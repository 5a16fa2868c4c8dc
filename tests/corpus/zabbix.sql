-- In the manner of Zabbix: hundreds of columns with defaults, numeric(20) keys without sequences, floats
-- at their limits, text that is not NULL but empty, foreign keys everywhere, an ids table, bytea images.
CREATE TABLE role (roleid bigint NOT NULL, name varchar(255) DEFAULT '' NOT NULL, type integer DEFAULT '0' NOT NULL, readonly integer DEFAULT '0' NOT NULL, PRIMARY KEY (roleid));
CREATE UNIQUE INDEX role_1 ON role (name);
CREATE TABLE ids (table_name varchar(64) DEFAULT '' NOT NULL, field_name varchar(64) DEFAULT '' NOT NULL, nextid bigint NOT NULL, PRIMARY KEY (table_name, field_name));
CREATE TABLE hosts (
  hostid bigint NOT NULL, proxy_hostid bigint NULL, host varchar(128) DEFAULT '' NOT NULL, status integer DEFAULT '0' NOT NULL,
  lastaccess integer DEFAULT '0' NOT NULL, ipmi_authtype integer DEFAULT '-1' NOT NULL, ipmi_privilege integer DEFAULT '2' NOT NULL,
  name varchar(128) DEFAULT '' NOT NULL, flags integer DEFAULT '0' NOT NULL, templateid bigint NULL, description text DEFAULT '' NOT NULL,
  tls_connect integer DEFAULT '1' NOT NULL, tls_accept integer DEFAULT '1' NOT NULL, tls_psk_identity varchar(128) DEFAULT '' NOT NULL,
  proxy_address varchar(255) DEFAULT '' NOT NULL, auto_compress integer DEFAULT '1' NOT NULL, custom_interfaces integer DEFAULT '0' NOT NULL,
  uuid varchar(32) DEFAULT '' NOT NULL, name_upper varchar(128) DEFAULT '' NOT NULL, PRIMARY KEY (hostid));
CREATE INDEX hosts_1 ON hosts (host);
CREATE INDEX hosts_6 ON hosts (name_upper);
ALTER TABLE ONLY hosts ADD CONSTRAINT c_hosts_1 FOREIGN KEY (proxy_hostid) REFERENCES hosts (hostid);
ALTER TABLE ONLY hosts ADD CONSTRAINT c_hosts_2 FOREIGN KEY (templateid) REFERENCES hosts (hostid) ON DELETE CASCADE;
CREATE TABLE items (
  itemid bigint NOT NULL, type integer DEFAULT '0' NOT NULL, hostid bigint NOT NULL, name varchar(255) DEFAULT '' NOT NULL, key_ varchar(2048) DEFAULT '' NOT NULL,
  delay varchar(1024) DEFAULT '0' NOT NULL, history varchar(255) DEFAULT '31d' NOT NULL, value_type integer DEFAULT '0' NOT NULL, units varchar(255) DEFAULT '' NOT NULL,
  formula varchar(255) DEFAULT '' NOT NULL, params text DEFAULT '' NOT NULL, master_itemid bigint NULL, posts text DEFAULT '' NOT NULL, allow_traps integer DEFAULT '0' NOT NULL,
  name_upper varchar(255) DEFAULT '' NOT NULL, PRIMARY KEY (itemid));
CREATE INDEX items_1 ON items (hostid, key_);
ALTER TABLE ONLY items ADD CONSTRAINT c_items_1 FOREIGN KEY (hostid) REFERENCES hosts (hostid) ON DELETE CASCADE;
ALTER TABLE ONLY items ADD CONSTRAINT c_items_5 FOREIGN KEY (master_itemid) REFERENCES items (itemid) ON DELETE CASCADE;
CREATE TABLE history (itemid bigint NOT NULL, clock integer DEFAULT '0' NOT NULL, value double precision DEFAULT '0.0000' NOT NULL, ns integer DEFAULT '0' NOT NULL, PRIMARY KEY (itemid, clock, ns));
CREATE TABLE history_uint (itemid bigint NOT NULL, clock integer DEFAULT '0' NOT NULL, value numeric(20) DEFAULT '0' NOT NULL, ns integer DEFAULT '0' NOT NULL, PRIMARY KEY (itemid, clock, ns));
CREATE TABLE history_text (itemid bigint NOT NULL, clock integer DEFAULT '0' NOT NULL, value text DEFAULT '' NOT NULL, ns integer DEFAULT '0' NOT NULL);
CREATE INDEX history_text_1 ON history_text (itemid, clock);
CREATE TABLE trends (itemid bigint NOT NULL, clock integer NOT NULL, num integer NOT NULL, value_min real, value_avg double precision, value_max double precision, PRIMARY KEY (itemid, clock));
CREATE TABLE images (imageid bigint NOT NULL, imagetype integer DEFAULT '0' NOT NULL, name varchar(64) DEFAULT '0' NOT NULL, image bytea DEFAULT '' NOT NULL, PRIMARY KEY (imageid));
CREATE TABLE widget_field (
  widget_fieldid bigint NOT NULL, type integer DEFAULT '0' NOT NULL, name varchar(255) DEFAULT '' NOT NULL, value_int integer DEFAULT '0' NOT NULL, value_str varchar(2048) DEFAULT '' NOT NULL,
  value_hostid bigint NULL, value_itemid bigint NULL, PRIMARY KEY (widget_fieldid));
ALTER TABLE ONLY widget_field ADD CONSTRAINT c_widget_field_3 FOREIGN KEY (value_hostid) REFERENCES hosts (hostid) ON DELETE CASCADE;
ALTER TABLE ONLY widget_field ADD CONSTRAINT c_widget_field_4 FOREIGN KEY (value_itemid) REFERENCES items (itemid) ON DELETE CASCADE;
DO $$ DECLARE columns text; BEGIN
  SELECT string_agg(format('setting_%s %s', n, (ARRAY['varchar(255) DEFAULT '''' NOT NULL', 'integer DEFAULT ''0'' NOT NULL', 'bigint NULL', 'text DEFAULT '''' NOT NULL'])[1 + n % 4]), ', ') INTO columns FROM generate_series(1, 120) n;
  EXECUTE 'CREATE TABLE config (configid bigint PRIMARY KEY, ' || columns || ')';
END $$;

CREATE FUNCTION hosts_name_upper_upper() RETURNS trigger LANGUAGE plpgsql AS $$
begin update hosts set name_upper=upper(name) where hostid=new.hostid; return null; end $$;
CREATE TRIGGER hosts_name_upper_insert AFTER INSERT ON hosts FOR EACH ROW EXECUTE FUNCTION hosts_name_upper_upper();
CREATE TRIGGER hosts_name_upper_update AFTER UPDATE OF name ON hosts FOR EACH ROW EXECUTE FUNCTION hosts_name_upper_upper();
CREATE FUNCTION changelog_hosts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO ids VALUES ('hosts', OLD.hostid::text, extract(epoch FROM now())::bigint) ON CONFLICT DO NOTHING; RETURN OLD; END $$;
CREATE TRIGGER hosts_delete BEFORE DELETE ON hosts FOR EACH ROW EXECUTE FUNCTION changelog_hosts();
CREATE AGGREGATE geometric_mean(double precision) (SFUNC = float8mul, STYPE = double precision, INITCOND = '1');
CREATE VIEW problems AS SELECT h.name, i.key_, t.value_max FROM hosts h JOIN items i USING (hostid) JOIN trends t USING (itemid)
  WHERE h.status IN (0, 1) AND t.value_max > ALL (SELECT avg(value) FROM history WHERE itemid = t.itemid);
CREATE VIEW worst AS SELECT DISTINCT ON (name) name, value_max, rank() OVER (PARTITION BY name ORDER BY value_max DESC) FROM problems ORDER BY name, value_max DESC;

INSERT INTO role SELECT n, 'role ' || n, n % 4 FROM generate_series(1, 5) n;
INSERT INTO hosts (hostid, host, name, status, proxy_hostid) SELECT n, 'host-' || n, 'Höst ' || n, n % 3, NULLIF(n - 1, 0) FROM generate_series(1, 150) n;
INSERT INTO items (itemid, hostid, name, key_, params, master_itemid) SELECT n, 1 + n % 150, 'Item ' || n, 'net.if.in["eth' || n || '",bytes]', E'line one\r\nline\ttwo \\N', CASE WHEN n > 10 THEN n - 10 END FROM generate_series(1, 500) n;
INSERT INTO history SELECT 1 + n % 500, 1700000000 + n, CASE n % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN 5e-324 ELSE n / 7.0 END, n FROM generate_series(1, 2000) n;
INSERT INTO history_uint SELECT 1 + n % 500, 1700000000 + n, 18446744073709551615 - n, n FROM generate_series(1, 1000) n;
INSERT INTO history_text SELECT n, n, repeat(E'\\.\n', n % 3), n FROM generate_series(1, 200) n;
INSERT INTO trends SELECT n, 1700000000, n, n / 3.0, n / 7.0, 1e308 FROM generate_series(1, 300) n;
INSERT INTO images SELECT n, 1, 'icon ' || n, decode(repeat('00ff5c0a', n), 'hex') FROM generate_series(1, 60) n;
INSERT INTO widget_field (widget_fieldid, value_hostid, value_itemid) SELECT n, n, n FROM generate_series(1, 100) n;
INSERT INTO config (configid) VALUES (1);
