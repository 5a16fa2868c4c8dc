"""Application schemas come back equal, are called equal, and whatever is changed then is named."""

import re
from pathlib import Path

import pytest

from devtools import corpus
from devtools.servers.postgres import PostgresServer
from stepvault.engines.postgres import engine
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.postgres.rig import address, new_database, source


@pytest.mark.parametrize("script", corpus.SCHEMAS, ids=lambda script: script.stem)
def test_a_schema_comes_back_equal_without_a_false_alarm(
    script: Path, pg18: PostgresServer, tmp_path: Path
) -> None:
    outcome = corpus.try_schema(pg18, script, tmp_path)
    assert outcome.stock == [], "a stock pg_restore of the same backup"
    assert outcome.ours == []
    assert outcome.losses == []
    assert outcome.false_alarms == []


#: Changes of the restored Django schema, each with the object that the comparison must name.
CHANGES = {
    "public.shop_product": """ALTER TABLE shop_product DROP CONSTRAINT shop_product_state_valid,
        ADD CONSTRAINT shop_product_state_valid CHECK (state IN ('draft', 'published', 'retired', 'lost'))""",
    "public.shop_product_live": """DROP INDEX shop_product_live;
        CREATE INDEX shop_product_live ON shop_product (created DESC NULLS LAST) INCLUDE (price)
        WHERE state IN ('published', 'draft') AND price > 0""",
    "public.shop_report": """CREATE OR REPLACE VIEW shop_report AS
        SELECT p.state, count(*) AS products, sum(p.price) FILTER (WHERE p.kind IN ('book')) AS books,
          'booked'::text AS booked
        FROM shop_product p WHERE p.state IN ('draft', 'published') GROUP BY p.state""",
    "shop_product_search_update": """CREATE OR REPLACE FUNCTION shop_product_search_update()
        RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'""",
    "shop_product_search_trigger": """DROP TRIGGER shop_product_search_trigger ON shop_product;
        CREATE TRIGGER shop_product_search_trigger BEFORE INSERT ON shop_product
        FOR EACH ROW EXECUTE FUNCTION shop_product_search_update()""",
    "public.auth_user": "ALTER TABLE auth_user ALTER username TYPE varchar(151)",
    "public.django_session": "UPDATE django_session SET expire_date = now();"
    " ALTER TABLE django_session ALTER expire_date SET DEFAULT now()",
    "public.django_migrations": "UPDATE django_migrations SET name = name || ' ' WHERE id = 7",
    "public.django_content_type_id_seq": "SELECT setval('django_content_type_id_seq', 77)",
    "shop_related_to": "ALTER TABLE shop_product_related VALIDATE CONSTRAINT shop_related_to",
    "shop_booking_no_overlap": "ALTER TABLE shop_booking DROP CONSTRAINT shop_booking_no_overlap",
    "table public.shop_booking": "DELETE FROM shop_booking WHERE id = 100",
    "CONSTRAINT shop_product_state_valid": "COMMENT ON CONSTRAINT shop_product_state_valid"
    " ON shop_product IS 'mirrors nothing'",
    "public.auth_user_email_active": "DROP INDEX auth_user_email_active",
}


def test_every_change_after_a_restore_is_named(pg18: PostgresServer, tmp_path: Path) -> None:
    original, copy = new_database(pg18), new_database(pg18)
    pg18.psql(next(s for s in corpus.SCHEMAS if s.stem == "django"), database=original)
    vault = tmp_path / "vault"
    vault.mkdir()
    results = back_up(engine, source(original), vault, connection=address(pg18, original))
    job = restore_job(results, vault, source(original), connection=address(pg18, copy))
    run_restore(engine, job)
    pg18.psql(";\n".join(CHANGES.values()), database=copy)
    told = "\n".join(engine.differences(job))
    assert [name for name in CHANGES if not re.search(rf"{re.escape(name)}\b", told)] == [], told
