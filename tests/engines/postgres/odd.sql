-- A database of odd things: what a real one may contain, in little. Needs psql and a superuser;
-- -v big=N sets the rows of the largest table.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'Odd "Owner"') AS fresh \gset
\if :fresh
CREATE ROLE "Odd ""Owner""" NOLOGIN;
CREATE ROLE odd_reader NOLOGIN;
ALTER ROLE odd_reader SET work_mem = '8MB';
\endif

CREATE SCHEMA app AUTHORIZATION "Odd ""Owner""";
COMMENT ON SCHEMA app IS 'Schéma with ''quotes'' and
a newline';
CREATE SCHEMA "Ünïcode Schema";
CREATE EXTENSION hstore SCHEMA app;
CREATE EXTENSION pg_trgm;
CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'très-heureux');
CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
CREATE TYPE app.pair AS (a int, b text);
CREATE TYPE app.span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE COLLATION app.plain (provider = libc, locale = 'C');
CREATE TEXT SEARCH DICTIONARY app.simple_dict (TEMPLATE = pg_catalog.simple);
CREATE TEXT SEARCH CONFIGURATION app.search (COPY = pg_catalog.english);
ALTER TEXT SEARCH CONFIGURATION app.search ALTER MAPPING FOR word WITH app.simple_dict;
CREATE FUNCTION app.add(a int, b int DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE RETURN a + b;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN NEW.created := '2024-02-29 12:00:00+00'; RETURN NEW; END$$;
CREATE PROCEDURE app.nothing() LANGUAGE plpgsql AS $$BEGIN NULL; END$$;
CREATE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR app.<+> (LEFTARG = int, RIGHTARG = int, FUNCTION = app.add);
CREATE CAST (app.pair AS text) WITH INOUT;

CREATE TABLE app.customers (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL COLLATE app.plain,
  email text UNIQUE,
  feeling app.mood,
  tags text[],
  profile jsonb,
  extra app.hstore,
  picture bytea,
  score numeric(12, 4),
  ratio float8,
  small real,
  created timestamptz NOT NULL DEFAULT now(),
  during tstzrange,
  address inet,
  price money,
  notes text,
  lucky app.positive,
  two app.pair,
  document xml,
  label text GENERATED ALWAYS AS (name || ' <' || coalesce(email, '?') || '>') STORED);
COMMENT ON TABLE app.customers IS 'Customers — "quoted" ünïcode \ backslash';
COMMENT ON COLUMN app.customers.tags IS 'array';
INSERT INTO app.customers (name, email, feeling, tags, profile, extra, picture, score, ratio, small,
  created, during, address, price, notes, lucky, two, document)
SELECT (ARRAY['Zoë', 'Bob', '日本語', 'Łukasz', 'O''Neil', E'tab\ttab', 'emoji 😀'])[1 + i % 7] || ' ' || i,
  CASE WHEN i % 11 > 0 THEN 'user' || i || '@example' || i % 97 || '.com' END,
  (enum_range(NULL::app.mood))[1 + i % 3],
  CASE WHEN i % 5 > 0 THEN ARRAY['t' || i % 10, 'a,b', '"q"', NULL, '\'] END,
  jsonb_build_object('i', i, 'k', md5(i::text), 'n', jsonb_build_object('a', ARRAY[i, i + 1], 's', E'line\nbreak')),
  CASE WHEN i % 13 = 0 THEN 'a=>1,"b c"=>NULL'::app.hstore END,
  CASE WHEN i % 3 > 0 THEN decode(md5(i::text) || md5((i * 7)::text), 'hex') END,
  (i * 17 % 100000) / 7.0,
  CASE i % 50 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE i / 3.0 END,
  i / 3.0,
  CASE WHEN i % 100 = 0 THEN 'infinity' ELSE timestamptz '2020-01-01' + i * interval '1 second' END,
  tstzrange('2020-01-01', '2021-01-01', '(]'),
  '10.0.0.1', 12.34,
  CASE i % 4 WHEN 1 THEN '' WHEN 2 THEN E'multi\nline\r\n\\N \\. tab\t\b\f\v' WHEN 3 THEN repeat('lorem ipsum ' || i || ' ', 6) END,
  CASE WHEN i % 6 > 0 THEN i + 1 END,
  ROW(i, E'\\.')::app.pair,
  '<a>b</a>'
FROM generate_series(1, :big) i;
CREATE INDEX customers_tags ON app.customers USING gin (tags) WHERE id < 1000;
CREATE INDEX customers_lower ON app.customers (lower(name)) WHERE email IS NOT NULL;
CREATE INDEX customers_trgm ON app.customers USING gin (name public.gin_trgm_ops) WHERE id < 1000;
CREATE TRIGGER stamp BEFORE UPDATE ON app.customers FOR EACH ROW EXECUTE FUNCTION app.touch();
ALTER TABLE app.customers DISABLE TRIGGER stamp;
ALTER TABLE app.customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY only_ok ON app.customers FOR SELECT TO odd_reader USING (feeling = 'ok');
ALTER TABLE app.customers OWNER TO "Odd ""Owner""";

-- One value larger than any buffer, and one that looks like the end of a COPY.
CREATE TABLE app.documents (id uuid PRIMARY KEY, body text, bin bytea);
INSERT INTO app.documents
SELECT md5(i::text)::uuid,
  (SELECT string_agg(md5((i * 1000 + j)::text) || ' the quick ', ' ') FROM generate_series(1, 60) j),
  (SELECT decode(string_agg(md5((i * 77 + j)::text), ''), 'hex') FROM generate_series(1, 100) j)
FROM generate_series(1, 800) i;
INSERT INTO app.documents VALUES ('00000000-0000-0000-0000-000000000001', repeat('x\y', 1000000), NULL),
  ('00000000-0000-0000-0000-000000000002', E'\\.', ''), ('00000000-0000-0000-0000-000000000003', E'\\N', NULL);
CREATE TABLE app.dots (t text);
INSERT INTO app.dots VALUES (E'\\.'), ('\.'), (E'\\. 3'), (''), (NULL), (E'\n'), (E'\\\n');

CREATE SEQUENCE app.events_id START 1000 INCREMENT 5 CACHE 10;
CREATE TABLE app.events (id bigint NOT NULL DEFAULT nextval('app.events_id'), at timestamptz NOT NULL,
  kind text, customer bigint, payload jsonb, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
ALTER SEQUENCE app.events_id OWNED BY app.events.id;
CREATE TABLE app.events_2023 PARTITION OF app.events FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE app.events_2024 PARTITION OF app.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')
  PARTITION BY HASH (id);
CREATE TABLE app.events_2024_0 PARTITION OF app.events_2024 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.events_2024_1 PARTITION OF app.events_2024 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE app.events_rest PARTITION OF app.events DEFAULT;
INSERT INTO app.events (at, kind, customer, payload)
SELECT timestamptz '2022-12-20' + i * interval '1 hour', (ARRAY['click', 'view', 'buy', 'Ω'])[1 + i % 4],
  1 + i % 1000, jsonb_build_object('ip', '10.0.' || i % 255 || '.' || i % 251, 'v', i)
FROM generate_series(1, 20000) i;
ALTER TABLE app.events ADD CONSTRAINT of_customer FOREIGN KEY (customer) REFERENCES app.customers (id);
CREATE INDEX events_kind ON app.events (kind);
CREATE STATISTICS app.kinds ON kind, customer FROM app.events_2023;

CREATE TABLE app.base (a int CHECK (a > 0), b text DEFAULT E'de''fault');
CREATE TABLE app.child (c date) INHERITS (app.base);
INSERT INTO app.base SELECT i, 'b' || i FROM generate_series(1, 100) i;
INSERT INTO app.child SELECT i, 'c' || i, '2024-01-01' FROM generate_series(1, 100) i;

CREATE TABLE app.empty_one (x int);
CREATE TABLE app.no_columns ();
INSERT INTO app.no_columns DEFAULT VALUES;
INSERT INTO app.no_columns DEFAULT VALUES;
CREATE TABLE app.only_generated (x int GENERATED ALWAYS AS (1) STORED);
INSERT INTO app.only_generated DEFAULT VALUES;
CREATE TABLE "Ünïcode Schema"."We""ird
Näme :x" ("Col 1" int, "select" text, gone int, "é
é" float8);
INSERT INTO "Ünïcode Schema"."We""ird
Näme :x" SELECT i, 'x' || i, i, i / 3.0 FROM generate_series(1, 500) i;
ALTER TABLE "Ünïcode Schema"."We""ird
Näme :x" DROP COLUMN gone;
CREATE TABLE public."table" ("order" int PRIMARY KEY, "user" text);
INSERT INTO public."table" VALUES (1, 'a'), (2, 'b');
CREATE TABLE public.circle_a (id int PRIMARY KEY, b int);
CREATE TABLE public.circle_b (id int PRIMARY KEY, a int REFERENCES public.circle_a DEFERRABLE);
ALTER TABLE public.circle_a ADD FOREIGN KEY (b) REFERENCES public.circle_b DEFERRABLE;
BEGIN; SET CONSTRAINTS ALL DEFERRED;
INSERT INTO public.circle_a VALUES (1, 1); INSERT INTO public.circle_b VALUES (1, 1); COMMIT;
CREATE UNLOGGED TABLE app.unlogged (a int);
INSERT INTO app.unlogged SELECT generate_series(1, 100);
CREATE TABLE app.exclusive (during tstzrange, EXCLUDE USING gist (during WITH &&));
INSERT INTO app.exclusive VALUES ('[2020-01-01,2020-02-01)'), ('[2020-02-01,2020-03-01)');

CREATE VIEW app.top AS SELECT id, name, score FROM app.customers WHERE score > 10000;
CREATE MATERIALIZED VIEW app.per_kind AS SELECT kind, count(*) AS n FROM app.events GROUP BY 1;
CREATE MATERIALIZED VIEW app.of_view AS SELECT sum(n) AS n FROM app.per_kind;
CREATE UNIQUE INDEX per_kind_key ON app.per_kind (kind);
CREATE MATERIALIZED VIEW app.not_filled AS SELECT 1 AS x WITH NO DATA;
CREATE RULE also AS ON INSERT TO app.empty_one DO ALSO NOTHING;
CREATE FUNCTION app.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN NULL; END$$;
CREATE EVENT TRIGGER odd_ddl ON sql_drop EXECUTE FUNCTION app.on_ddl();
CREATE PUBLICATION odd_publication FOR TABLE app.documents;
-- pg_dump 18 writes a 15's subscription with an option that only 16 and later know.
SELECT current_setting('server_version_num')::int >= 160000 AS can_subscribe \gset
\if :can_subscribe
CREATE SUBSCRIPTION odd_subscription CONNECTION 'host=nowhere.invalid' PUBLICATION nothing
  WITH (connect = false, slot_name = NONE);
\endif
CREATE FOREIGN DATA WRAPPER odd_wrapper;
CREATE SERVER odd_server FOREIGN DATA WRAPPER odd_wrapper;
CREATE FOREIGN TABLE app.elsewhere (a int) SERVER odd_server;
GRANT USAGE ON SCHEMA app TO odd_reader;
GRANT SELECT ON app.customers TO odd_reader;
GRANT UPDATE (name) ON app.customers TO odd_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO odd_reader;
ALTER SEQUENCE app.customers_id_seq RESTART WITH 7654321;

SELECT count(lo_from_bytea(0, decode(repeat(md5(i::text), 200), 'hex'))) FROM generate_series(1, 30) i;
SELECT lo_create(0) AS empty_object \gset
DO $$DECLARE o oid; BEGIN
  SELECT min(oid) INTO o FROM pg_largeobject_metadata;
  EXECUTE format('COMMENT ON LARGE OBJECT %s IS ''a comment''', o);
  EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO odd_reader', o);
END$$;
