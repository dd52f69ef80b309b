--- case h_index_hash
CREATE INDEX orders_ref_hash ON orders USING hash (ref);
--- case h_index_then_drop
CREATE INDEX orders_price_idx ON orders (price);
DROP INDEX orders_placed_idx;
--- case h_drop_table_and_recreate
DROP TABLE scratch;
CREATE TABLE scratch (id bigint PRIMARY KEY, body text NOT NULL);
--- case h_swap_tables
CREATE TABLE lines_new (order_id bigint NOT NULL, sku text NOT NULL);
ALTER TABLE lines RENAME TO lines_old;
ALTER TABLE lines_new RENAME TO lines;
--- case h_copy_and_swap
CREATE TABLE scratch_new AS SELECT id, body FROM scratch;
DROP TABLE scratch;
ALTER TABLE scratch_new RENAME TO scratch;
--- case h_lock_then_copy
LOCK TABLE scratch IN ACCESS EXCLUSIVE MODE;
CREATE TABLE scratch_new AS SELECT id, body FROM scratch;
--- case h_truncate_then_insert
TRUNCATE scratch;
INSERT INTO scratch SELECT id, tag FROM orders;
--- case h_default_then_not_null
ALTER TABLE orders ALTER COLUMN hint SET DEFAULT '';
ALTER TABLE orders ALTER COLUMN hint SET NOT NULL;
--- case h_new_column_not_null_later
ALTER TABLE orders ADD COLUMN extra integer DEFAULT 1;
ALTER TABLE orders ALTER COLUMN extra SET NOT NULL;
--- case h_two_type_changes
ALTER TABLE orders ALTER COLUMN hint TYPE text, ALTER COLUMN total TYPE numeric(12,2);
--- case h_one_bad_type_change
ALTER TABLE orders ALTER COLUMN hint TYPE text, ALTER COLUMN total TYPE numeric(12,3);
--- case h_type_date_to_timestamp
ALTER TABLE orders ALTER COLUMN placed_on TYPE timestamp;
--- case h_type_bool_to_int
ALTER TABLE customers ALTER COLUMN active TYPE integer;
--- case h_type_uuid_to_text
ALTER TABLE orders ALTER COLUMN ref TYPE text;
--- case h_type_using_same_cast
ALTER TABLE orders ALTER COLUMN hint TYPE text USING hint::text;
--- case h_type_varchar_array
ALTER TABLE customers ALTER COLUMN nick TYPE text[] USING ARRAY[nick];
--- case h_type_with_collation
ALTER TABLE orders ALTER COLUMN payload TYPE text COLLATE "C";
--- case h_column_array_default
ALTER TABLE orders ADD COLUMN tags text[] NOT NULL DEFAULT '{}';
--- case h_column_random_default
ALTER TABLE customers ADD COLUMN bucket integer DEFAULT (random() * 10)::int;
--- case h_column_nextval_default
ALTER TABLE orders ADD COLUMN number bigint DEFAULT nextval('invoice_number');
--- case h_column_primary_key
ALTER TABLE scratch ADD COLUMN key bigserial PRIMARY KEY;
--- case h_column_check_null
ALTER TABLE orders ADD COLUMN extra integer CHECK (extra > 0);
--- case h_column_empty_partition
ALTER TABLE events_5 ADD COLUMN extra uuid DEFAULT gen_random_uuid();
--- case h_add_not_null_column_then_drop_default
ALTER TABLE orders ADD COLUMN extra text NOT NULL DEFAULT 'x';
ALTER TABLE orders ALTER COLUMN extra DROP DEFAULT;
--- case h_foreign_key_small_tables
ALTER TABLE audit_log ADD COLUMN country char(2);
ALTER TABLE audit_log ADD FOREIGN KEY (country) REFERENCES countries;
--- case h_foreign_key_self
ALTER TABLE customers ADD COLUMN referrer integer;
ALTER TABLE customers ADD CONSTRAINT customers_referrer FOREIGN KEY (referrer) REFERENCES customers (id);
--- case h_foreign_key_partitioned_child
ALTER TABLE events ADD CONSTRAINT events_order FOREIGN KEY (id) REFERENCES orders (id);
--- case h_foreign_key_bad_type
ALTER TABLE lines ADD CONSTRAINT lines_bad FOREIGN KEY (sku) REFERENCES orders (id);
--- case h_unique_with_duplicates
ALTER TABLE orders ADD CONSTRAINT orders_status_key UNIQUE (status);
--- case h_primary_key_duplicates
ALTER TABLE events_4 ADD PRIMARY KEY (day);
--- case h_not_null_check_in_other_case
ALTER TABLE orders VALIDATE CONSTRAINT orders_price_ok;
ALTER TABLE orders ALTER COLUMN payload SET NOT NULL;
--- case h_attach_after_check
ALTER TABLE events_4 ADD CONSTRAINT events_4_day CHECK (day >= '2026-04-01' AND day < '2026-05-01');
ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES FROM ('2026-04-01') TO ('2026-05-01');
--- case h_attach_wrong_range
ALTER TABLE events ATTACH PARTITION events_3 FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
--- case h_attach_overlap
ALTER TABLE events ATTACH PARTITION events_5 FOR VALUES FROM ('2026-01-15') TO ('2026-06-01');
--- case h_detach_then_drop
ALTER TABLE events DETACH PARTITION events_1;
DROP TABLE events_1;
--- case h_partitioned_not_null
ALTER TABLE events ALTER COLUMN body SET NOT NULL;
--- case h_partitioned_check
ALTER TABLE events ADD CONSTRAINT body_ok CHECK (length(body) < 100);
--- case h_enum_value_then_table
ALTER TYPE mood ADD VALUE 'merry' BEFORE 'calm';
CREATE TABLE moods (id integer, mood mood);
--- case h_drop_type_in_use
DROP TYPE mood;
--- case h_drop_type_cascade
DROP TYPE mood CASCADE;
--- case h_domain_not_null
ALTER DOMAIN positive SET NOT NULL;
--- case h_update_through_join
UPDATE lines SET n = 0 FROM orders WHERE orders.id = lines.order_id;
--- case h_delete_nothing
DELETE FROM orders WHERE placed_on < '2000-01-01';
--- case h_update_after_trigger_off
ALTER TABLE lines DISABLE TRIGGER ALL;
UPDATE lines SET n = 1;
--- case h_view_over_renamed
ALTER TABLE customers RENAME COLUMN nick TO nickname;
--- case h_materialized_view_replaced
DROP MATERIALIZED VIEW plain_totals;
CREATE MATERIALIZED VIEW plain_totals AS SELECT id, total FROM orders;
--- case h_refresh_empty
REFRESH MATERIALIZED VIEW totals WITH NO DATA;
--- case h_reindex_then_column
ALTER TABLE countries ADD COLUMN flag text;
REINDEX INDEX orders_customer_idx;
--- case h_set_tablespace_same
ALTER TABLE orders SET TABLESPACE pg_default;
--- case h_inherit
CREATE TABLE special_lines () INHERITS (lines);
--- case h_create_like
CREATE TABLE orders_copy (LIKE orders INCLUDING ALL);
--- case h_rule
CREATE RULE keep AS ON DELETE TO audit_log DO INSTEAD NOTHING;
--- case h_sequence_owned
ALTER SEQUENCE invoice_number OWNED BY orders.id;
--- case h_cluster_on
ALTER TABLE orders CLUSTER ON orders_placed_idx;
--- case h_concurrently_twice
-- steward: no-transaction
CREATE INDEX CONCURRENTLY orders_price_idx ON orders (price);
DROP INDEX CONCURRENTLY orders_placed_idx;
