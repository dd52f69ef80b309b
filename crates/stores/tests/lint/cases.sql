--- case index_plain
CREATE INDEX orders_price_idx ON orders (price);
--- case index_small_table
CREATE INDEX countries_name_idx ON countries (name);
--- case index_empty_table
CREATE INDEX audit_body_idx ON audit_log (body);
--- case index_unique
CREATE UNIQUE INDEX customers_email_key ON customers (email);
--- case index_unique_with_duplicates
CREATE UNIQUE INDEX orders_status_key ON orders (status);
--- case index_partial
CREATE INDEX orders_open_idx ON orders (placed_on) WHERE status = 'new';
--- case index_expression
CREATE INDEX customers_lower_idx ON customers (lower(email));
--- case index_concurrently
-- steward: no-transaction
CREATE INDEX CONCURRENTLY orders_price_idx ON orders (price);
--- case index_concurrently_unique
-- steward: no-transaction
CREATE UNIQUE INDEX CONCURRENTLY customers_email_key ON customers (email);
--- case index_concurrently_in_transaction
CREATE INDEX CONCURRENTLY orders_price_idx ON orders (price);
--- case index_if_not_exists_there
CREATE INDEX IF NOT EXISTS orders_customer_idx ON orders (customer_id);
--- case index_name_taken
CREATE INDEX orders_customer_idx ON orders (customer_id);
--- case index_partitioned
CREATE INDEX events_id_idx ON events (id);
--- case index_partitioned_only
CREATE INDEX events_id_idx ON ONLY events (id);
--- case index_partitioned_concurrently
-- steward: no-transaction
CREATE INDEX CONCURRENTLY events_id_idx ON events (id);
--- case index_new_table
CREATE TABLE fresh (id integer PRIMARY KEY, a text);
CREATE INDEX fresh_a ON fresh (a);
--- case index_new_table_filled
CREATE TABLE fresh AS SELECT id, tag FROM orders;
CREATE INDEX fresh_a ON fresh (tag);
--- case index_materialized_view
CREATE INDEX plain_totals_total ON plain_totals (total);
--- case index_missing_column
CREATE INDEX orders_nothing_idx ON orders (nothing);
--- case index_missing_table
CREATE INDEX nothing_idx ON nothing (id);
--- case drop_index
DROP INDEX orders_placed_idx;
--- case drop_index_concurrently
-- steward: no-transaction
DROP INDEX CONCURRENTLY orders_placed_idx;
--- case drop_index_concurrently_in_transaction
DROP INDEX CONCURRENTLY orders_placed_idx;
--- case drop_index_of_constraint
DROP INDEX orders_pkey;
--- case drop_index_missing
DROP INDEX IF EXISTS no_such_idx;
--- case reindex_table
REINDEX TABLE orders;
--- case reindex_index
REINDEX INDEX orders_customer_idx;
--- case reindex_table_concurrently
-- steward: no-transaction
REINDEX TABLE CONCURRENTLY orders;
--- case reindex_index_concurrently
-- steward: no-transaction
REINDEX INDEX CONCURRENTLY orders_customer_idx;
--- case rename_index
ALTER INDEX orders_customer_idx RENAME TO orders_by_customer;
--- case column_nullable
ALTER TABLE orders ADD COLUMN extra text;
--- case column_constant_default
ALTER TABLE orders ADD COLUMN extra integer DEFAULT 5;
--- case column_not_null_default
ALTER TABLE orders ADD COLUMN extra integer NOT NULL DEFAULT 0;
--- case column_now_default
ALTER TABLE orders ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
--- case column_clock_default
ALTER TABLE orders ADD COLUMN changed_at timestamptz DEFAULT clock_timestamp();
--- case column_uuid_default
ALTER TABLE orders ADD COLUMN key uuid DEFAULT gen_random_uuid();
--- case column_own_volatile_default
ALTER TABLE orders ADD COLUMN luck integer DEFAULT dice();
--- case column_own_stable_default
ALTER TABLE orders ADD COLUMN luck integer DEFAULT rate();
--- case column_serial
ALTER TABLE orders ADD COLUMN number bigserial;
--- case column_serial_small_table
ALTER TABLE countries ADD COLUMN number serial;
--- case column_identity
ALTER TABLE orders ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY;
--- case column_generated_stored
ALTER TABLE orders ADD COLUMN tripled integer GENERATED ALWAYS AS (price * 3) STORED;
--- case column_required
ALTER TABLE orders ADD COLUMN extra integer NOT NULL;
--- case column_required_empty_table
ALTER TABLE audit_log ADD COLUMN who text NOT NULL;
--- case column_check
ALTER TABLE orders ADD COLUMN extra integer DEFAULT 1 CHECK (extra > 0);
--- case column_unique
ALTER TABLE orders ADD COLUMN extra integer UNIQUE;
--- case column_unique_constant
ALTER TABLE orders ADD COLUMN extra integer DEFAULT 1 UNIQUE;
--- case column_references_nullable
ALTER TABLE orders ADD COLUMN home char(2) REFERENCES countries (code);
--- case column_references_default
ALTER TABLE orders ADD COLUMN home char(2) DEFAULT 'AA' REFERENCES countries (code);
--- case column_domain_constrained
ALTER TABLE orders ADD COLUMN place positive DEFAULT 1;
--- case column_domain_plain
ALTER TABLE orders ADD COLUMN place plain_code DEFAULT 'x';
--- case column_if_not_exists_there
ALTER TABLE orders ADD COLUMN IF NOT EXISTS remark text;
--- case column_there
ALTER TABLE orders ADD COLUMN remark text;
--- case column_partitioned
ALTER TABLE events ADD COLUMN extra text;
--- case column_partitioned_volatile
ALTER TABLE events ADD COLUMN extra uuid DEFAULT gen_random_uuid();
--- case column_missing_table
ALTER TABLE nothing ADD COLUMN a text;
--- case column_missing_table_if_exists
ALTER TABLE IF EXISTS nothing ADD COLUMN a text;
--- case drop_column
ALTER TABLE orders DROP COLUMN remark;
--- case drop_column_viewed
ALTER TABLE customers DROP COLUMN name;
--- case drop_column_viewed_cascade
ALTER TABLE customers DROP COLUMN name CASCADE;
--- case drop_column_of_foreign_key
ALTER TABLE orders DROP COLUMN customer_id;
--- case drop_column_missing
ALTER TABLE orders DROP COLUMN IF EXISTS nothing;
--- case rename_column
ALTER TABLE orders RENAME COLUMN remark TO comment;
--- case rename_table
ALTER TABLE orders RENAME TO purchases;
--- case rename_table_with_view
ALTER TABLE lines RENAME TO order_lines;
CREATE VIEW lines AS SELECT * FROM order_lines;
--- case rename_constraint
ALTER TABLE orders RENAME CONSTRAINT orders_price_ok TO price_is_positive;
--- case table_set_schema
ALTER TABLE lines SET SCHEMA archive;
--- case type_int_to_bigint
ALTER TABLE orders ALTER COLUMN price TYPE bigint;
--- case type_flags_to_bigint
ALTER TABLE customers ALTER COLUMN flags TYPE bigint;
--- case type_small_table
ALTER TABLE countries ALTER COLUMN code TYPE char(3);
--- case type_varchar_longer
ALTER TABLE orders ALTER COLUMN hint TYPE varchar(60);
--- case type_varchar_to_text
ALTER TABLE orders ALTER COLUMN hint TYPE text;
--- case type_varchar_unlimited
ALTER TABLE orders ALTER COLUMN status TYPE varchar;
--- case type_varchar_shorter
ALTER TABLE orders ALTER COLUMN hint TYPE varchar(10);
--- case type_varchar_viewed
ALTER TABLE customers ALTER COLUMN name TYPE varchar(80);
--- case type_text_to_varchar_limited
ALTER TABLE customers ALTER COLUMN nick TYPE varchar(100);
--- case type_text_to_varchar
ALTER TABLE customers ALTER COLUMN nick TYPE varchar;
--- case type_char_to_varchar
ALTER TABLE customers ALTER COLUMN initials TYPE varchar(3);
--- case type_numeric_wider
ALTER TABLE customers ALTER COLUMN score TYPE numeric(10,2);
--- case type_numeric_scale
ALTER TABLE customers ALTER COLUMN score TYPE numeric(10,3);
--- case type_numeric_unlimited
ALTER TABLE customers ALTER COLUMN score TYPE numeric;
--- case type_timestamp_to_timestamptz
ALTER TABLE customers ALTER COLUMN precise TYPE timestamptz;
--- case type_timestamp_to_timestamptz_indexed
ALTER TABLE customers ALTER COLUMN born TYPE timestamptz;
--- case type_timestamp_precision_up
ALTER TABLE customers ALTER COLUMN precise TYPE timestamp(6);
--- case type_timestamp_precision_down
ALTER TABLE customers ALTER COLUMN born TYPE timestamp(0);
--- case type_json_to_jsonb
ALTER TABLE customers ALTER COLUMN meta TYPE jsonb;
--- case type_text_to_int
ALTER TABLE customers ALTER COLUMN nick TYPE integer;
--- case type_int_to_text
ALTER TABLE customers ALTER COLUMN flags TYPE text;
--- case type_using
ALTER TABLE customers ALTER COLUMN region TYPE integer USING length(region);
--- case type_same
ALTER TABLE orders ALTER COLUMN price TYPE integer;
--- case type_checked_column
ALTER TABLE orders ALTER COLUMN tag TYPE varchar;
--- case type_generated_source
ALTER TABLE orders ALTER COLUMN price TYPE smallint;
--- case type_referenced_key
ALTER TABLE customers ALTER COLUMN id TYPE bigint;
--- case type_referring_column
ALTER TABLE orders ALTER COLUMN customer_id TYPE bigint;
--- case type_partition_key
ALTER TABLE events ALTER COLUMN day TYPE timestamp;
--- case type_cidr_to_inet
ALTER TABLE customers ALTER COLUMN net TYPE inet;
--- case type_domain_to_base
ALTER TABLE customers ALTER COLUMN code TYPE text;
--- case type_to_constrained_domain
ALTER TABLE customers ALTER COLUMN flags TYPE positive;
--- case type_enum_to_text
ALTER TABLE customers ALTER COLUMN temper TYPE text;
--- case not_null
ALTER TABLE customers ALTER COLUMN nick SET NOT NULL;
--- case not_null_with_nulls
ALTER TABLE orders ALTER COLUMN remark SET NOT NULL;
--- case not_null_proven
ALTER TABLE orders ALTER COLUMN payload SET NOT NULL;
--- case not_null_proven_in_conjunction
ALTER TABLE orders ALTER COLUMN tag SET NOT NULL;
--- case not_null_already
ALTER TABLE orders ALTER COLUMN total SET NOT NULL;
--- case not_null_small_table
ALTER TABLE audit_log ALTER COLUMN body SET NOT NULL;
--- case not_null_through_check
ALTER TABLE customers ADD CONSTRAINT nick_present CHECK (nick IS NOT NULL) NOT VALID;
ALTER TABLE customers VALIDATE CONSTRAINT nick_present;
ALTER TABLE customers ALTER COLUMN nick SET NOT NULL;
--- case drop_not_null
ALTER TABLE orders ALTER COLUMN total DROP NOT NULL;
--- case drop_not_null_of_key
ALTER TABLE orders ALTER COLUMN id DROP NOT NULL;
--- case set_default
ALTER TABLE orders ALTER COLUMN remark SET DEFAULT 'none';
--- case drop_default
ALTER TABLE orders ALTER COLUMN status DROP DEFAULT;
--- case set_statistics
ALTER TABLE orders ALTER COLUMN status SET STATISTICS 500;
--- case set_storage
ALTER TABLE orders ALTER COLUMN payload SET STORAGE EXTERNAL;
--- case set_fillfactor
ALTER TABLE orders SET (fillfactor = 80);
--- case check_valid
ALTER TABLE orders ADD CONSTRAINT total_ok CHECK (total >= 0);
--- case check_not_valid
ALTER TABLE orders ADD CONSTRAINT total_ok CHECK (total >= 0) NOT VALID;
--- case check_validate
ALTER TABLE orders VALIDATE CONSTRAINT orders_price_ok;
--- case check_both_in_one_transaction
ALTER TABLE orders ADD CONSTRAINT total_ok CHECK (total >= 0) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT total_ok;
--- case check_both_apart
-- steward: no-transaction
ALTER TABLE orders ADD CONSTRAINT total_ok CHECK (total >= 0) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT total_ok;
--- case check_small_table
ALTER TABLE countries ADD CONSTRAINT name_ok CHECK (name <> '');
--- case drop_check
ALTER TABLE orders DROP CONSTRAINT orders_price_ok;
--- case foreign_key
ALTER TABLE lines ADD CONSTRAINT lines_order FOREIGN KEY (order_id) REFERENCES orders (id);
--- case foreign_key_not_valid
ALTER TABLE lines ADD CONSTRAINT lines_order FOREIGN KEY (order_id) REFERENCES orders (id) NOT VALID;
--- case foreign_key_validate
ALTER TABLE orders VALIDATE CONSTRAINT orders_country_fk;
--- case foreign_key_both_in_one_transaction
ALTER TABLE lines ADD CONSTRAINT lines_order FOREIGN KEY (order_id) REFERENCES orders (id) NOT VALID;
ALTER TABLE lines VALIDATE CONSTRAINT lines_order;
--- case foreign_key_without_unique_parent
ALTER TABLE lines ADD CONSTRAINT lines_tag FOREIGN KEY (sku) REFERENCES orders (tag);
--- case foreign_key_empty_child
ALTER TABLE audit_log ADD CONSTRAINT audit_order FOREIGN KEY (id) REFERENCES orders (id);
--- case foreign_key_new_table
CREATE TABLE refunds (id bigint PRIMARY KEY, order_id bigint REFERENCES orders (id));
--- case drop_foreign_key
ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey;
--- case primary_key_direct
ALTER TABLE lines ADD PRIMARY KEY (order_id, sku);
--- case primary_key_using_not_null
ALTER TABLE lines ADD CONSTRAINT lines_pkey PRIMARY KEY USING INDEX lines_natural;
--- case primary_key_using_nullable
ALTER TABLE lines ADD CONSTRAINT lines_pkey PRIMARY KEY USING INDEX lines_n;
--- case primary_key_second
ALTER TABLE orders ADD PRIMARY KEY (tag);
--- case unique_direct
ALTER TABLE lines ADD CONSTRAINT lines_k_key UNIQUE (k);
--- case unique_using
ALTER TABLE lines ADD CONSTRAINT lines_k_key UNIQUE USING INDEX lines_k;
--- case unique_using_partial
ALTER TABLE lines ADD CONSTRAINT lines_p_key UNIQUE USING INDEX lines_partial;
--- case unique_using_not_unique
ALTER TABLE lines ADD CONSTRAINT lines_s_key UNIQUE USING INDEX lines_sku;
--- case exclude
ALTER TABLE lines ADD CONSTRAINT lines_excl EXCLUDE USING btree (k WITH =);
--- case attach_with_check
ALTER TABLE events ATTACH PARTITION events_3 FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
--- case attach_without_check
ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES FROM ('2026-04-01') TO ('2026-05-01');
--- case attach_empty
ALTER TABLE events ATTACH PARTITION events_5 FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
--- case attach_beside_default
ALTER TABLE logs ATTACH PARTITION logs_b FOR VALUES IN ('b');
--- case partition_of
CREATE TABLE events_6 PARTITION OF events FOR VALUES FROM ('2026-06-01') TO ('2026-07-01');
--- case partition_of_beside_default
CREATE TABLE logs_c PARTITION OF logs FOR VALUES IN ('c');
--- case detach
ALTER TABLE events DETACH PARTITION events_1;
--- case detach_concurrently_in_transaction
ALTER TABLE events DETACH PARTITION events_1 CONCURRENTLY;
--- case detach_concurrently_beside_default
-- steward: no-transaction
ALTER TABLE logs DETACH PARTITION logs_a CONCURRENTLY;
--- case cluster
CLUSTER orders USING orders_placed_idx;
--- case cluster_without_index
CLUSTER orders;
--- case vacuum_full
-- steward: no-transaction
VACUUM FULL orders;
--- case vacuum
-- steward: no-transaction
VACUUM orders;
--- case vacuum_in_transaction
VACUUM orders;
--- case analyze
ANALYZE orders;
--- case truncate
TRUNCATE lines;
--- case truncate_referred
TRUNCATE customers;
--- case truncate_cascade
TRUNCATE customers CASCADE;
--- case set_unlogged
ALTER TABLE lines SET UNLOGGED;
--- case set_logged
ALTER TABLE sessions SET LOGGED;
--- case set_logged_already
ALTER TABLE lines SET LOGGED;
--- case refresh
REFRESH MATERIALIZED VIEW totals;
--- case refresh_concurrently
REFRESH MATERIALIZED VIEW CONCURRENTLY totals;
--- case refresh_concurrently_without_key
REFRESH MATERIALIZED VIEW CONCURRENTLY plain_totals;
--- case create_materialized_view
CREATE MATERIALIZED VIEW counted AS SELECT status, count(*) FROM orders GROUP BY status;
--- case create_view
CREATE VIEW recent AS SELECT id FROM orders WHERE placed_on > '2026-06-01';
--- case replace_view
CREATE OR REPLACE VIEW customer_names AS SELECT id, name FROM customers WHERE id > 0;
--- case drop_view
DROP VIEW customer_names;
--- case drop_table
DROP TABLE lines;
--- case drop_table_referred
DROP TABLE customers;
--- case drop_table_referred_cascade
DROP TABLE countries CASCADE;
--- case drop_table_missing
DROP TABLE IF EXISTS nothing;
--- case drop_partition
DROP TABLE events_1;
--- case drop_schema
DROP SCHEMA archive;
--- case drop_schema_cascade
DROP SCHEMA archive CASCADE;
--- case update_all
UPDATE orders SET remark = 'x';
--- case update_one
UPDATE orders SET remark = 'x' WHERE id = 5;
--- case update_few
UPDATE orders SET remark = 'x' WHERE id < 100;
--- case update_most
UPDATE orders SET remark = 'x' WHERE id > 100;
--- case update_small_table
UPDATE countries SET name = upper(name);
--- case delete_most
DELETE FROM lines WHERE k > 10;
--- case delete_one
DELETE FROM lines WHERE k = 10;
--- case insert_rows
INSERT INTO countries (code, name) VALUES ('ZZ', 'nowhere');
--- case insert_many
INSERT INTO audit_log SELECT id, tag FROM orders;
--- case column_then_update
ALTER TABLE orders ADD COLUMN extra integer;
UPDATE orders SET extra = 1;
--- case column_then_index
ALTER TABLE orders ADD COLUMN extra integer;
CREATE INDEX orders_extra_idx ON orders (extra);
--- case column_then_copy_elsewhere
ALTER TABLE countries ADD COLUMN extra integer;
INSERT INTO audit_log SELECT id, tag FROM orders;
--- case two_tables
ALTER TABLE orders ADD COLUMN extra integer;
ALTER TABLE customers ADD COLUMN extra integer;
--- case enum_add_value
ALTER TYPE mood ADD VALUE 'merry';
--- case enum_add_value_there
ALTER TYPE mood ADD VALUE IF NOT EXISTS 'calm';
--- case enum_add_value_and_use
ALTER TYPE mood ADD VALUE 'merry';
UPDATE customers SET temper = 'merry' WHERE id = 3;
--- case enum_rename_value
ALTER TYPE mood RENAME VALUE 'cross' TO 'angry';
--- case enum_new_and_use
CREATE TYPE state AS ENUM ('on', 'off');
CREATE TABLE switches (id integer, state state);
INSERT INTO switches VALUES (1, 'on');
--- case domain_add_check
ALTER DOMAIN plain_code ADD CONSTRAINT code_ok CHECK (VALUE <> '');
--- case domain_add_check_not_valid
ALTER DOMAIN plain_code ADD CONSTRAINT code_ok CHECK (VALUE <> '') NOT VALID;
--- case domain_check_apart
-- steward: no-transaction
ALTER DOMAIN plain_code ADD CONSTRAINT code_ok CHECK (VALUE <> '') NOT VALID;
ALTER DOMAIN plain_code VALIDATE CONSTRAINT code_ok;
--- case trigger_create
CREATE TRIGGER lines_touch BEFORE UPDATE ON lines FOR EACH ROW EXECUTE FUNCTION touch();
--- case trigger_drop
DROP TRIGGER orders_touch ON orders;
--- case trigger_disable
ALTER TABLE orders DISABLE TRIGGER orders_touch;
--- case row_security
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
--- case policy
CREATE POLICY own ON orders USING (true);
--- case grant_select
GRANT SELECT ON orders TO public;
--- case comment_on_table
COMMENT ON TABLE orders IS 'what was bought';
--- case comment_on_column
COMMENT ON COLUMN orders.total IS 'in euro';
--- case statistics_object
CREATE STATISTICS orders_stat ON status, placed_on FROM orders;
--- case owner
ALTER TABLE orders OWNER TO CURRENT_USER;
--- case replica_identity
ALTER TABLE orders REPLICA IDENTITY FULL;
--- case create_table
CREATE TABLE fresh (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);
--- case create_table_there
CREATE TABLE orders (id bigint);
--- case create_table_if_not_exists_there
CREATE TABLE IF NOT EXISTS orders (id bigint);
--- case create_function
CREATE FUNCTION greet() RETURNS text LANGUAGE sql AS 'SELECT ''hello''';
--- case drop_function
DROP FUNCTION dice();
--- case sequence_restart
ALTER SEQUENCE invoice_number RESTART WITH 100;
--- case lock_table
LOCK TABLE orders IN SHARE MODE;
--- case composite_attribute
ALTER TYPE spot ADD ATTRIBUTE z integer;
--- case many_actions
ALTER TABLE orders ADD COLUMN extra integer, ALTER COLUMN remark SET DEFAULT '', ALTER COLUMN hint TYPE varchar(50);
--- case many_actions_one_scan
ALTER TABLE orders ADD COLUMN extra integer, ADD CONSTRAINT total_ok CHECK (total >= 0);
--- case column_generated_virtual
ALTER TABLE orders ADD COLUMN tripled integer GENERATED ALWAYS AS (price * 3) VIRTUAL;
--- case column_generated_unsaid
ALTER TABLE scratch ADD COLUMN twice integer GENERATED ALWAYS AS (id * 2) STORED;
--- case not_null_as_constraint
ALTER TABLE customers ADD CONSTRAINT nick_present NOT NULL nick;
--- case not_null_as_constraint_not_valid
ALTER TABLE customers ADD CONSTRAINT nick_present NOT NULL nick NOT VALID;
--- case check_not_enforced
ALTER TABLE orders ADD CONSTRAINT total_ok CHECK (total >= 0) NOT ENFORCED;
--- case foreign_key_not_enforced
ALTER TABLE lines ADD CONSTRAINT lines_order FOREIGN KEY (order_id) REFERENCES orders (id) NOT ENFORCED;
--- case foreign_key_not_valid_partitioned
ALTER TABLE events ADD CONSTRAINT events_order FOREIGN KEY (id) REFERENCES orders (id) NOT VALID;
--- case set_expression
ALTER TABLE orders ALTER COLUMN doubled SET EXPRESSION AS (price * 4);
--- case detach_concurrently
-- steward: no-transaction
ALTER TABLE events DETACH PARTITION events_1 CONCURRENTLY;
