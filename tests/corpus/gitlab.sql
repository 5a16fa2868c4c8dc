-- In the manner of GitLab: partitions in a schema of their own (by range, list and hash), triggers on
-- them, foreign keys between partitioned tables, checks on array length, bitmaps, generated names.
CREATE EXTENSION btree_gist;
CREATE EXTENSION btree_gin;
CREATE EXTENSION pg_trgm;
CREATE SCHEMA gitlab_partitions_dynamic;
CREATE SCHEMA gitlab_partitions_static;
COMMENT ON SCHEMA gitlab_partitions_dynamic IS 'Schema to hold partitions managed dynamically from the application';

CREATE FUNCTION table_sync_function() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
IF (TG_OP = 'DELETE') THEN DELETE FROM audit_copy WHERE id = OLD.id; RETURN OLD;
ELSE INSERT INTO audit_copy (id, name) VALUES (NEW.id, NEW.event_name) ON CONFLICT (id) DO UPDATE SET name = excluded.name; END IF;
RETURN NULL;
END $$;
CREATE FUNCTION prevent_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'read only' USING HINT = 'move on'; END $$;

CREATE TABLE namespaces (
  id bigserial PRIMARY KEY, name character varying NOT NULL, path character varying NOT NULL, type character varying DEFAULT 'User'::character varying NOT NULL,
  parent_id bigint, traversal_ids bigint[] DEFAULT '{}'::bigint[] NOT NULL, visibility_level integer DEFAULT 20 NOT NULL,
  CONSTRAINT check_2eae3bdf93 CHECK (char_length(path) <= 255),
  CONSTRAINT check_traversal CHECK (cardinality(traversal_ids) <= 20));
ALTER TABLE namespaces ADD CONSTRAINT fk_parent FOREIGN KEY (parent_id) REFERENCES namespaces (id) ON DELETE CASCADE;
CREATE INDEX index_namespaces_on_traversal_ids ON namespaces USING gin (traversal_ids);
CREATE INDEX index_namespaces_public ON namespaces (visibility_level, id) WHERE type::text = 'Group'::text AND parent_id IS NULL;
CREATE UNIQUE INDEX index_namespaces_path ON namespaces (lower(path::text), COALESCE(parent_id, '-1'::integer));
CREATE INDEX index_namespaces_name_trigram ON namespaces USING gin (name gin_trgm_ops);

CREATE TABLE audit_copy (id bigint PRIMARY KEY, name text);
CREATE TABLE audit_events (
  id bigint NOT NULL, created_at timestamp without time zone NOT NULL, event_name text, entity_type character varying NOT NULL,
  details jsonb, ip_address inet, namespace_id bigint REFERENCES namespaces ON DELETE CASCADE,
  CONSTRAINT check_492aaa021d CHECK (char_length(event_name) <= 255),
  CONSTRAINT check_entity CHECK (entity_type IN ('Project', 'Group', 'User', 'Gitlab::Audit::InstanceScope')),
  PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
CREATE SEQUENCE audit_events_id_seq OWNED BY audit_events.id;
ALTER TABLE audit_events ALTER COLUMN id SET DEFAULT nextval('audit_events_id_seq'::regclass);
CREATE TABLE gitlab_partitions_dynamic.audit_events_000000 PARTITION OF audit_events FOR VALUES FROM (MINVALUE) TO ('2024-01-01 00:00:00');
CREATE TABLE gitlab_partitions_dynamic.audit_events_202401 PARTITION OF audit_events FOR VALUES FROM ('2024-01-01 00:00:00') TO ('2024-02-01 00:00:00');
CREATE TABLE gitlab_partitions_dynamic.audit_events_202402 (extra text, LIKE audit_events INCLUDING ALL);
ALTER TABLE gitlab_partitions_dynamic.audit_events_202402 DROP COLUMN extra;
ALTER TABLE audit_events ATTACH PARTITION gitlab_partitions_dynamic.audit_events_202402 FOR VALUES FROM ('2024-02-01 00:00:00') TO ('2024-03-01 00:00:00');
CREATE TABLE gitlab_partitions_dynamic.audit_events_rest PARTITION OF audit_events DEFAULT;
CREATE INDEX analytics_index_audit_events ON audit_events (created_at, entity_type);
CREATE INDEX only_january ON gitlab_partitions_dynamic.audit_events_202401 (ip_address inet_ops) WHERE ip_address << '10.0.0.0/8'::inet;
CREATE TRIGGER table_sync_trigger AFTER INSERT OR DELETE OR UPDATE ON audit_events FOR EACH ROW EXECUTE FUNCTION table_sync_function();
ALTER TABLE gitlab_partitions_dynamic.audit_events_000000 ALTER COLUMN event_name SET DEFAULT 'before time';

CREATE TABLE issue_search_data (
  project_id bigint NOT NULL, issue_id bigint NOT NULL, search_vector tsvector,
  namespace_id bigint, PRIMARY KEY (project_id, issue_id)) PARTITION BY HASH (project_id);
DO $$ BEGIN FOR n IN 0..7 LOOP
  EXECUTE format('CREATE TABLE gitlab_partitions_static.issue_search_data_%s PARTITION OF issue_search_data FOR VALUES WITH (modulus 8, remainder %s)', lpad(n::text, 2, '0'), n);
END LOOP; END $$;
CREATE INDEX index_issue_search ON issue_search_data USING gin (search_vector);

CREATE TABLE p_ci_pipelines (id bigserial NOT NULL, partition_id bigint NOT NULL DEFAULT 100, status character varying, locked smallint DEFAULT 1 NOT NULL,
  PRIMARY KEY (id, partition_id)) PARTITION BY LIST (partition_id);
CREATE TABLE ci_pipelines PARTITION OF p_ci_pipelines FOR VALUES IN (100, 101);
CREATE TABLE gitlab_partitions_dynamic.ci_pipelines_102 PARTITION OF p_ci_pipelines FOR VALUES IN (102) WITH (fillfactor = 80);
CREATE TABLE p_ci_builds (
  id bigserial NOT NULL, partition_id bigint NOT NULL, pipeline_id bigint, status character varying, stage_idx int, name text COLLATE "C",
  options jsonb, PRIMARY KEY (id, partition_id),
  CONSTRAINT fk_pipeline FOREIGN KEY (pipeline_id, partition_id) REFERENCES p_ci_pipelines (id, partition_id) ON UPDATE CASCADE ON DELETE CASCADE) PARTITION BY LIST (partition_id);
CREATE TABLE ci_builds PARTITION OF p_ci_builds FOR VALUES IN (100, 101);
CREATE TABLE gitlab_partitions_dynamic.ci_builds_102 PARTITION OF p_ci_builds FOR VALUES IN (102) PARTITION BY RANGE (id);
CREATE TABLE gitlab_partitions_dynamic.ci_builds_102_1 PARTITION OF gitlab_partitions_dynamic.ci_builds_102 FOR VALUES FROM (1) TO (1000000);
CREATE INDEX p_ci_builds_live ON p_ci_builds (pipeline_id, name) WHERE status IN ('created', 'pending', 'running');
CREATE INDEX p_ci_builds_token ON ONLY p_ci_builds (stage_idx);
CREATE TRIGGER read_only_builds BEFORE DELETE ON gitlab_partitions_dynamic.ci_builds_102_1 FOR EACH STATEMENT EXECUTE FUNCTION prevent_update();
CREATE VIEW postgres_partitions AS
  SELECT c.oid, n.nspname || '.' || c.relname AS identifier, pg_get_expr(c.relpartbound, c.oid) AS condition
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relispartition AND n.nspname = ANY (ARRAY['public'::name, 'gitlab_partitions_dynamic'::name, 'gitlab_partitions_static'::name]);
COMMENT ON COLUMN postgres_partitions.condition IS 'bounds';
COMMENT ON INDEX p_ci_builds_live IS 'what runs';

INSERT INTO namespaces (name, path, type, parent_id, traversal_ids)
  SELECT 'Group ' || n, 'group-' || n, CASE n % 2 WHEN 0 THEN 'Group' ELSE 'User' END, NULLIF(n / 3, 0), ARRAY[n, n / 3] FROM generate_series(1, 200) n;
INSERT INTO audit_events (created_at, event_name, entity_type, details, ip_address, namespace_id)
  SELECT timestamp '2023-12-20' + n * interval '5 hours', 'event ' || n, (ARRAY['Project', 'Group', 'User'])[1 + n % 3], jsonb_build_object('n', n),
    ('10.1.' || n % 200 || '.9')::inet, 1 + n % 200 FROM generate_series(1, 500) n;
INSERT INTO issue_search_data SELECT n % 40, n, to_tsvector('english', 'Issue number ' || n), n FROM generate_series(1, 400) n;
INSERT INTO p_ci_pipelines (partition_id, status) SELECT 100 + n % 3, 'success' FROM generate_series(1, 90) n;
INSERT INTO p_ci_builds (partition_id, pipeline_id, status, stage_idx, name) SELECT partition_id, id, 'running', id % 4, 'rspec ' || id FROM p_ci_pipelines;
