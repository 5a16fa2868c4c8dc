-- In the manner of Laravel: bigserial, varchar(255) with enum-like checks, polymorphic relations,
-- soft deletes with partial unique indexes, queues, row security for tenants, uuid defaults.
CREATE EXTENSION hstore;
CREATE EXTENSION pgcrypto;
CREATE DOMAIN email AS varchar(255) CHECK (VALUE LIKE '%_@_%');
CREATE DOMAIN cents AS bigint DEFAULT 0 NOT NULL CONSTRAINT not_negative CHECK (VALUE >= 0);
CREATE TYPE money_amount AS (amount numeric(20, 4), currency char(3));

CREATE TABLE migrations (id serial PRIMARY KEY, migration varchar(255) NOT NULL, batch int NOT NULL);
CREATE TABLE tenants (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) NOT NULL, settings hstore);
CREATE TABLE users (
  id bigserial PRIMARY KEY, tenant_id uuid NOT NULL REFERENCES tenants ON UPDATE CASCADE ON DELETE RESTRICT,
  name varchar(255) NOT NULL, email email NOT NULL, role varchar(255) NOT NULL DEFAULT 'member',
  remember_token varchar(100), deleted_at timestamp(0) without time zone,
  created_at timestamp(0) without time zone, updated_at timestamp(0) without time zone,
  CONSTRAINT users_role_check CHECK (role::text = ANY (ARRAY['owner'::character varying, 'admin'::character varying, 'member'::character varying]::text[])));
CREATE UNIQUE INDEX users_email_unique ON users (tenant_id, lower((email)::text)) WHERE deleted_at IS NULL;
CREATE INDEX users_created ON users USING brin (created_at) WITH (pages_per_range = 16);
CREATE TABLE password_reset_tokens (email varchar(255) PRIMARY KEY, token varchar(255) NOT NULL, created_at timestamp(0));
CREATE UNLOGGED TABLE cache (key varchar(255) PRIMARY KEY, value text NOT NULL, expiration int NOT NULL);
CREATE TABLE jobs (
  id bigserial PRIMARY KEY, queue varchar(255) NOT NULL, payload json NOT NULL, attempts smallint NOT NULL,
  reserved_at int, available_at int NOT NULL, created_at int NOT NULL);
CREATE INDEX jobs_queue_index ON jobs (queue) WITH (fillfactor = 70);
ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.01, fillfactor = 60);
ALTER TABLE jobs ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE TABLE images (
  id bigserial PRIMARY KEY, imageable_type varchar(255) NOT NULL, imageable_id bigint NOT NULL,
  content bytea, hash text GENERATED ALWAYS AS (encode(sha256(content), 'hex')) STORED,
  CONSTRAINT images_type CHECK (imageable_type IN ('App\Models\User', 'App\Models\Invoice')));
CREATE INDEX images_imageable ON images (imageable_type, imageable_id);
CREATE INDEX images_hash ON images USING hash (hash);
CREATE TABLE invoices (
  id bigserial PRIMARY KEY, tenant_id uuid NOT NULL REFERENCES tenants, user_id bigint REFERENCES users ON DELETE SET NULL,
  number int NOT NULL, total cents, paid money_amount, lines jsonb NOT NULL DEFAULT '[]',
  status varchar(255) NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'void')),
  due date, UNIQUE NULLS NOT DISTINCT (tenant_id, number, user_id));
CREATE SEQUENCE invoice_numbers AS int START 1000 INCREMENT 7 MINVALUE 1000 MAXVALUE 2000000 CYCLE OWNED BY invoices.number;
ALTER TABLE invoices ALTER COLUMN number SET DEFAULT nextval('invoice_numbers');
CREATE STATISTICS invoices_tenant_status (dependencies, ndistinct) ON tenant_id, status FROM invoices;
ALTER TABLE invoices ALTER COLUMN status SET STATISTICS 500;

ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
CREATE POLICY invoices_tenant ON invoices USING (tenant_id = current_setting('app.tenant', true)::uuid);
CREATE POLICY invoices_void ON invoices AS RESTRICTIVE FOR UPDATE USING (status IN ('open', 'paid')) WITH CHECK (status <> 'void' OR total = 0);
CREATE VIEW open_invoices WITH (security_invoker = true) AS SELECT id, tenant_id, total FROM invoices WHERE status IN ('open') AND due < CURRENT_DATE;
CREATE RULE open_invoices_delete AS ON DELETE TO open_invoices DO INSTEAD UPDATE invoices SET status = 'void' WHERE id = OLD.id;
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE changed hstore; BEGIN changed := hstore(NEW.*) - hstore(OLD.*); NEW.updated_at := now(); RETURN NEW; END; $$;
CREATE TRIGGER users_audit BEFORE UPDATE ON users FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION audit();
ALTER TABLE users DISABLE TRIGGER users_audit;
CREATE FUNCTION tenant_total(t uuid, VARIADIC states varchar[] DEFAULT '{open}') RETURNS TABLE (status varchar, total numeric)
  LANGUAGE sql STABLE PARALLEL SAFE ROWS 3 AS $$ SELECT status, sum(total)::numeric FROM invoices WHERE tenant_id = t AND status = ANY (states) GROUP BY 1 $$;
COMMENT ON FUNCTION tenant_total IS 'by state';
COMMENT ON POLICY invoices_tenant ON invoices IS 'one tenant sees its own';

INSERT INTO migrations (migration, batch) SELECT '2024_01_' || n || '_create', 1 + n / 10 FROM generate_series(10, 40) n;
INSERT INTO tenants SELECT md5('t' || n)::uuid, 'Tenant ' || n, hstore(ARRAY['plan', 'beta'], ARRAY[CASE n % 2 WHEN 0 THEN 'pro' END, 'x"y']) FROM generate_series(1, 20) n;
INSERT INTO users (tenant_id, name, email, role, deleted_at, created_at)
  SELECT md5('t' || 1 + n % 20)::uuid, 'Name ' || n, 'mail' || n % 150 || '@example.com', (ARRAY['owner', 'admin', 'member'])[1 + n % 3],
    CASE WHEN n <= 150 THEN timestamp '2024-02-29 23:59:59' END, timestamp '2024-01-01' + n * interval '1 minute' FROM generate_series(1, 300) n;
INSERT INTO jobs (queue, payload, attempts, available_at, created_at) SELECT 'default', json_build_object('job', n, 'data', repeat('x', n)), 0, n, n FROM generate_series(1, 300) n;
DELETE FROM jobs WHERE id > 290;
INSERT INTO images (imageable_type, imageable_id, content) SELECT 'App\Models\User', n, decode(repeat(md5(n::text), 20), 'hex') FROM generate_series(1, 100) n;
INSERT INTO invoices (tenant_id, user_id, total, paid, status, due) SELECT md5('t' || 1 + n % 20)::uuid, n, n * 100, ROW(n, 'EUR')::money_amount, (ARRAY['open', 'paid', 'void'])[1 + n % 3], date '2024-12-24' FROM generate_series(1, 200) n;
