-- Definitions that a server prints in another way once they have been restored, or in another release.
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE DOMAIN app.code AS varchar(4) CHECK (VALUE IN ('de', 'fr'));
CREATE SEQUENCE app.numbers START 7;
CREATE TABLE app.people (
  id int PRIMARY KEY, name varchar(40) NOT NULL,
  state varchar(9) DEFAULT 'new' CONSTRAINT state_known CHECK (state IN ('new', 'old')),
  spare varchar(9) CHECK (spare NOT IN ('x', 'y')), country app.code, email text,
  age int CHECK (age > 0), kind app.mood DEFAULT 'good', born date
);
INSERT INTO app.people (id, name, age, email)
  SELECT i, 'n' || i, i, i || '@x' FROM generate_series(1, 60) i;
CREATE INDEX people_new ON app.people (name) WHERE state IN ('new', 'old');
CREATE INDEX people_old ON app.people (lower(name)) WHERE age > 30;
CREATE STATISTICS app.people_both ON age, state FROM app.people;
CREATE TABLE app.pets (
  id int GENERATED ALWAYS AS IDENTITY, owner int CONSTRAINT pets_owner REFERENCES app.people ON DELETE CASCADE,
  weight numeric NOT NULL, double numeric GENERATED ALWAYS AS (weight * 2) STORED
);
INSERT INTO app.pets (owner, weight) SELECT i, i FROM generate_series(1, 9) i;
-- A column that comes after the child's own: the restored child has it before them.
CREATE TABLE app.base (a int NOT NULL);
CREATE TABLE app.heir (own text) INHERITS (app.base);
ALTER TABLE app.base ADD COLUMN later int NOT NULL DEFAULT 5;
INSERT INTO app.heir VALUES (1, 'x', 2), (3, 'y', 4);
CREATE TABLE app."LARGE OBJECT" (i int);
-- Names of not-null constraints, of which releases before 18 know nothing.
CREATE TABLE app.turned (before int NOT NULL);
ALTER TABLE app.turned RENAME before TO after;
CREATE TABLE app.a_table_whose_name_is_almost_as_long_as_names_may_be (and_a_column_with_a_long_name int NOT NULL);
CREATE TABLE app.parted (a int NOT NULL, b int) PARTITION BY LIST (a);
CREATE TABLE app.part (b int NOT NULL, a int NOT NULL);
ALTER TABLE app.parted ATTACH PARTITION app.part FOR VALUES IN (1, 2);
INSERT INTO app.parted VALUES (1, 10), (2, 20);
-- Bounds that are printed in the zone of whoever asks.
CREATE TABLE app.timed (at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE app.january PARTITION OF app.timed FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');
INSERT INTO app.timed VALUES ('2026-01-07 07:00+00');
CREATE VIEW app.current AS SELECT people.id, people.name FROM app.people WHERE people.state IN ('new', 'old');
CREATE VIEW app.joined AS SELECT p.name, q.weight FROM app.people p JOIN app.pets q ON q.owner = p.id;
CREATE MATERIALIZED VIEW app.counted AS SELECT p.state, count(*) FROM app.people p WHERE p.state IN ('new', 'old') GROUP BY p.state;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.born := ''2000-01-01''; RETURN NEW; END';
CREATE FUNCTION app.seen(varchar) RETURNS bool LANGUAGE sql BEGIN ATOMIC SELECT $1 IN ('new', 'old'); END;
CREATE TRIGGER touched BEFORE UPDATE ON app.people FOR EACH ROW
  WHEN (NEW.state IN ('new', 'old')) EXECUTE FUNCTION app.touch();
CREATE RULE quiet AS ON DELETE TO app.turned DO INSTEAD NOTHING;
ALTER TABLE app.people ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON app.people USING (state IN ('new', 'old'));
COMMENT ON TABLE app.pets IS 'who lives where';
GRANT SELECT ON app.pets TO PUBLIC;
SELECT setval('app.numbers', 21);
SELECT lo_from_bytea(4711, 'water');
