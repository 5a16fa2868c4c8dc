-- In the manner of Wagtail: a tree of pages with multi-table inheritance, checks on varchar, partial
-- unique indexes, constraints on two columns, a search index of weighted vectors, ltree, collations.
CREATE EXTENSION pg_trgm;
CREATE EXTENSION ltree;
CREATE SCHEMA cms;
CREATE COLLATION cms.plain (provider = libc, locale = 'C');
CREATE TYPE cms.revision_state AS ENUM ('draft', 'in moderation', 'live');

CREATE TABLE cms.locale (id serial PRIMARY KEY, language_code varchar(100) NOT NULL UNIQUE);
CREATE TABLE cms.site (
  id serial PRIMARY KEY, hostname varchar(255) NOT NULL COLLATE cms.plain, port int NOT NULL DEFAULT 80 CHECK (port BETWEEN 1 AND 65535),
  is_default_site boolean NOT NULL, UNIQUE (hostname, port));
CREATE UNIQUE INDEX one_default_site ON cms.site (is_default_site) WHERE is_default_site;
CREATE TABLE cms.page (
  id serial PRIMARY KEY, path varchar(255) COLLATE "C" NOT NULL UNIQUE, tree ltree,
  depth int NOT NULL CHECK (depth > 0), numchild int NOT NULL CHECK (numchild >= 0),
  translation_key uuid NOT NULL, locale_id int NOT NULL REFERENCES cms.locale,
  title varchar(255) NOT NULL, slug varchar(255) NOT NULL, url_path text NOT NULL, live boolean NOT NULL,
  restriction varchar(20) NOT NULL DEFAULT 'none',
  go_live_at timestamptz, expire_at timestamptz, alias_of_id int,
  state cms.revision_state NOT NULL DEFAULT 'draft',
  CONSTRAINT page_restriction CHECK (restriction IN ('none', 'password', 'groups', 'login')),
  CONSTRAINT page_times CHECK (go_live_at IS NULL OR expire_at IS NULL OR go_live_at < expire_at),
  CONSTRAINT page_translation UNIQUE (translation_key, locale_id));
ALTER TABLE cms.page ADD CONSTRAINT page_alias FOREIGN KEY (alias_of_id) REFERENCES cms.page ON DELETE SET NULL;
CREATE INDEX page_tree ON cms.page USING gist (tree);
CREATE INDEX page_path_like ON cms.page (path varchar_pattern_ops);
CREATE INDEX page_live_urls ON cms.page (url_path text_pattern_ops) WHERE live AND alias_of_id IS NULL AND restriction IN ('none', 'login');
CREATE TABLE cms.blog_page (
  page_ptr_id int PRIMARY KEY REFERENCES cms.page ON DELETE CASCADE,
  body jsonb NOT NULL, date date NOT NULL DEFAULT CURRENT_DATE,
  reading_minutes int GENERATED ALWAYS AS (1 + length(body::text) / 1000) STORED);
CREATE TABLE cms.revision (
  id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1000 INCREMENT BY 5 CACHE 3) PRIMARY KEY,
  page_id int NOT NULL REFERENCES cms.page ON DELETE CASCADE, content jsonb NOT NULL,
  approved boolean NOT NULL DEFAULT false, created_at timestamptz NOT NULL);
CREATE TABLE cms.task_state (
  id serial PRIMARY KEY, revision_id bigint NOT NULL REFERENCES cms.revision,
  status varchar(50) NOT NULL CHECK (status IN ('in_progress', 'approved', 'rejected', 'skipped', 'cancelled')));
CREATE UNIQUE INDEX unique_in_progress ON cms.task_state (revision_id) WHERE (status = 'in_progress');
CREATE TABLE cms.index_entry (
  id serial PRIMARY KEY, page_id int NOT NULL REFERENCES cms.page, autocomplete tsvector NOT NULL,
  title tsvector NOT NULL, title_norm double precision NOT NULL DEFAULT 1.0, body tsvector NOT NULL);
CREATE INDEX index_entry_all ON cms.index_entry USING gin ((title || body));

CREATE VIEW cms.live_page AS SELECT id, title, url_path, restriction FROM cms.page WHERE live AND state = 'live';
CREATE VIEW cms.public_page WITH (security_barrier) AS
  SELECT * FROM cms.live_page WHERE restriction IN ('none', 'login') WITH LOCAL CHECK OPTION;
CREATE VIEW cms.menu AS WITH RECURSIVE up AS (
    SELECT p.id, p.title, p.path, 1 AS level FROM cms.page p WHERE p.depth = 1
    UNION ALL SELECT c.id, c.title, c.path, up.level + 1 FROM cms.page c JOIN up ON c.path LIKE up.path || '____')
  SELECT * FROM up;
CREATE MATERIALIZED VIEW cms.popular AS
  SELECT m.level, count(*) AS pages, max(v.title) AS last_title FROM cms.menu m LEFT JOIN cms.public_page v USING (id) GROUP BY m.level WITH DATA;
CREATE UNIQUE INDEX popular_level ON cms.popular (level);
CREATE FUNCTION cms.set_url_path() RETURNS trigger LANGUAGE plpgsql SET search_path = cms, pg_temp AS $$
BEGIN NEW.url_path := '/' || NEW.slug || '/'; RETURN NEW; END $$;
CREATE TRIGGER set_url_path BEFORE INSERT OR UPDATE ON cms.page FOR EACH ROW
  WHEN (NEW.url_path IS NULL OR NEW.url_path = '') EXECUTE FUNCTION cms.set_url_path();
COMMENT ON VIEW cms.menu IS 'the tree, as editors see it';
COMMENT ON COLUMN cms.page.path IS E'steps of four\ncharacters';

INSERT INTO cms.locale (language_code) VALUES ('en'), ('de'), ('pt-br');
INSERT INTO cms.site (hostname, is_default_site) VALUES ('Example.com', true), ('shop.example.com', false);
INSERT INTO cms.page (path, tree, depth, numchild, translation_key, locale_id, title, slug, url_path, live, restriction, state)
  SELECT repeat('0001', n % 3) || lpad(n::text, 4, '0'), ('top.n' || n)::ltree, 1 + n % 3, 0, md5(n::text)::uuid, 1 + n % 3,
    'Page ' || n, 'page-' || n, '', n % 2 = 0, (ARRAY['none', 'password', 'groups', 'login'])[1 + n % 4],
    (ARRAY['draft', 'in moderation', 'live']::cms.revision_state[])[1 + n % 3]
  FROM generate_series(1, 300) n;
INSERT INTO cms.blog_page (page_ptr_id, body, date) SELECT n, jsonb_build_array(jsonb_build_object('type', 'paragraph', 'value', repeat('text ' || n, n))), date '2024-01-01' + n FROM generate_series(1, 150) n;
INSERT INTO cms.revision (page_id, content, created_at) SELECT n, jsonb_build_object('title', 'Page ' || n), timestamptz '2024-03-31 01:30+00' FROM generate_series(1, 250) n;
INSERT INTO cms.task_state (revision_id, status) SELECT id, (ARRAY['in_progress', 'approved', 'rejected'])[1 + id % 3] FROM cms.revision;
INSERT INTO cms.index_entry (page_id, autocomplete, title, body) SELECT id, to_tsvector('simple', title), setweight(to_tsvector('english', title), 'A'), to_tsvector('english', url_path) FROM cms.page;
REFRESH MATERIALIZED VIEW cms.popular;
