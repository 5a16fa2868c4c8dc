-- A data warehouse that uses what PostgreSQL offers: inheritance with later columns, views on
-- materialized views, domains over domains, multiranges, what is new in 18, large objects, procedures.
CREATE EXTENSION btree_gist;
CREATE EXTENSION tablefunc;
CREATE SCHEMA raw;
CREATE SCHEMA mart;
CREATE SCHEMA "Odd Names";
CREATE DOMAIN raw.code AS text COLLATE "C" CHECK (VALUE ~ '^[A-Z]{2}-[0-9]+$');
CREATE DOMAIN raw.codes AS raw.code[] CONSTRAINT few CHECK (cardinality(VALUE) BETWEEN 0 AND 9);
CREATE TYPE raw.place AS (code raw.code, spot point);
CREATE TYPE raw.weekday AS ENUM ('mon', 'tue', 'wed', 'thu', 'fri');
ALTER TYPE raw.weekday ADD VALUE 'early mon' BEFORE 'mon';
CREATE TYPE raw.hours AS RANGE (subtype = time, multirange_type_name = raw.openings);

CREATE TABLE raw.event (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, source raw.code NOT NULL);
CREATE TABLE raw.click (url text NOT NULL, day raw.weekday) INHERITS (raw.event);
ALTER TABLE raw.event ADD COLUMN note varchar(40) DEFAULT 'later' CHECK (note IN ('later', 'now', ''));
ALTER TABLE raw.click ADD COLUMN clicks int NOT NULL DEFAULT 1;
CREATE TABLE raw.view (dwell interval) INHERITS (raw.click);
ALTER TABLE raw.view ALTER COLUMN note SET DEFAULT 'now';
ALTER TABLE raw.click DROP COLUMN day;
CREATE INDEX event_recent ON raw.event (at) WHERE note NOT IN ('now') AND source IN ('DE-1', 'DE-2');
CREATE TABLE raw.parcel (
  id int NOT NULL, valid daterange NOT NULL, place raw.place, codes raw.codes DEFAULT '{}', open raw.openings,
  weight numeric CONSTRAINT weight_known NOT NULL, grams numeric GENERATED ALWAYS AS (weight * 1000) VIRTUAL,
  payload bytea COMPRESSION pglz, scan oid, shape polygon, bits bit varying(64), mac macaddr8, doc xml,
  CONSTRAINT parcel_key PRIMARY KEY (id, valid WITHOUT OVERLAPS),
  CONSTRAINT light CHECK (weight < 1000) NOT ENFORCED,
  CONSTRAINT apart EXCLUDE USING gist (shape WITH &&));
CREATE TABLE raw.route (
  parcel int, valid daterange, hops text[] CHECK ('' <> ALL (hops)),
  CONSTRAINT route_parcel FOREIGN KEY (parcel, PERIOD valid) REFERENCES raw.parcel (id, PERIOD valid));
CREATE TABLE "Odd Names"."Tabelle ""A""" ("Spalte 1" int PRIMARY KEY, "select" text DEFAULT E'a\\b''c', "é" char(3), U&"\0394" "char");
CREATE TABLE "Odd Names".empty ();
CREATE TABLE raw.typed OF raw.place (code WITH OPTIONS PRIMARY KEY);

CREATE MATERIALIZED VIEW mart.daily AS SELECT date_trunc('day', at, 'Europe/Berlin') AS day, source, count(*) AS n, array_agg(DISTINCT note) FILTER (WHERE note IS NOT NULL) AS notes FROM raw.event GROUP BY ROLLUP (1, 2);
CREATE INDEX daily_day ON mart.daily (day) WHERE source IS NOT NULL;
CREATE VIEW mart.weekly AS SELECT date_trunc('week', day) AS week, sum(n) AS n FROM mart.daily WHERE source = ANY ('{DE-1,DE-2}') GROUP BY 1;
CREATE MATERIALIZED VIEW mart.trend AS SELECT week, n, lag(n) OVER w AS before, n - lag(n, 1, 0::numeric) OVER w AS change FROM mart.weekly WINDOW w AS (ORDER BY week ROWS BETWEEN 3 PRECEDING AND CURRENT ROW);
CREATE MATERIALIZED VIEW mart.never AS SELECT * FROM mart.trend WITH NO DATA;
CREATE VIEW mart.latest AS SELECT t.*, x.source FROM mart.trend t CROSS JOIN LATERAL (SELECT source FROM mart.daily d WHERE d.day >= t.week ORDER BY n DESC FETCH FIRST 1 ROWS WITH TIES) x;
CREATE FUNCTION mart.summary(since date DEFAULT '2024-01-01') RETURNS SETOF mart.latest LANGUAGE sql STABLE BEGIN ATOMIC SELECT * FROM mart.latest WHERE week >= since; END;
CREATE VIEW mart.from_function AS SELECT f.week, f.n FROM mart.summary() f;
CREATE PROCEDURE mart.refresh(INOUT done int DEFAULT 0) LANGUAGE plpgsql AS $body$ BEGIN REFRESH MATERIALIZED VIEW mart.daily; done := done + 1; END $body$;
CREATE FUNCTION mart.first(anycompatible, anycompatible) RETURNS anycompatible LANGUAGE sql IMMUTABLE AS 'SELECT coalesce($1, $2)';
CREATE AGGREGATE mart.first(anycompatible) (SFUNC = mart.first, STYPE = anycompatible, PARALLEL = safe);
CREATE OPERATOR mart.<=> (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq, COMMUTATOR = OPERATOR(mart.<=>));
CREATE TEXT SEARCH CONFIGURATION mart.german (COPY = pg_catalog.german);
CREATE RULE protect AS ON UPDATE TO raw.typed WHERE OLD.code IS DISTINCT FROM NEW.code DO INSTEAD NOTHING;
CREATE INDEX click_host ON raw.click (lower(substring(url FROM '://([^/]+)'))) INCLUDE (clicks);
CREATE STATISTICS raw.click_expressions ON lower(url), (clicks % 7) FROM raw.click;
CREATE SEQUENCE mart.countdown AS smallint INCREMENT -3 MINVALUE -900 MAXVALUE 100 START 100;
COMMENT ON MATERIALIZED VIEW mart.daily IS 'per day, in Berlin';
COMMENT ON TYPE raw.weekday IS 'no weekends';
COMMENT ON DOMAIN raw.code IS 'country and number';

INSERT INTO raw.event (at, source, note) SELECT timestamptz '2024-03-30 22:30+00' + n * interval '37 minutes', 'DE-' || n % 4, (ARRAY['later', 'now', NULL])[1 + n % 3] FROM generate_series(1, 500) n;
INSERT INTO raw.click (id, at, source, url) OVERRIDING SYSTEM VALUE SELECT n, timestamptz '2024-10-26 23:00+00' + n * interval '7 minutes', 'AT-' || n % 3, 'https://Host' || n % 9 || '.example/p?q=' || n FROM generate_series(1001, 1400) n;
INSERT INTO raw.view (id, at, source, url, dwell) SELECT n, timestamptz '2024-07-01 00:00+00', 'CH-1', 'http://a/' || n, n * interval '1 month 3 days 0.25 seconds' FROM generate_series(2001, 2100) n;
INSERT INTO raw.parcel (id, valid, place, codes, open, weight, payload, shape, bits, mac, doc)
  SELECT n, daterange('2024-01-01', NULL), ROW(('DE-' || n)::raw.code, point(n, n / 3.0))::raw.place, ARRAY['AT-1', 'CH-' || n]::raw.code[],
    '{[08:00,12:00),[13:00,18:00)}', n / 7.0, decode(repeat(md5(n::text), n), 'hex'), polygon(box(point(n * 10, 0), point(n * 10 + 5, 5))),
    n::bit(16), '08:00:2b:01:02:03:04:05', xmlelement(name p, n) FROM generate_series(1, 99) n;
INSERT INTO raw.route SELECT n, daterange('2024-02-01', '2024-03-01'), ARRAY['a', 'b ' || n] FROM generate_series(1, 99) n;
INSERT INTO "Odd Names"."Tabelle ""A""" SELECT n, NULL, 'é' || n % 10, 'x' FROM generate_series(1, 20) n;
INSERT INTO raw.typed VALUES ('DE-1', '(1,2)');
SELECT nextval('mart.countdown'), nextval('mart.countdown');
UPDATE raw.parcel SET scan = lo_from_bytea(0, decode(repeat('00ff10', 1000 * id), 'hex')) WHERE id < 4;
REFRESH MATERIALIZED VIEW mart.daily;
REFRESH MATERIALIZED VIEW mart.trend;
