-- The database that each case is measured on: tables of 12,000 rows are large, those below 10,000 small.
CREATE TYPE mood AS ENUM ('calm', 'cross');
CREATE TYPE spot AS (x integer, y integer);
CREATE DOMAIN plain_code AS text;
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE SCHEMA archive;
CREATE SEQUENCE invoice_number;
CREATE FUNCTION dice() RETURNS integer LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN 4; END';
CREATE FUNCTION rate() RETURNS integer LANGUAGE sql STABLE AS 'SELECT 4';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE countries (code char(2) PRIMARY KEY, name text NOT NULL);
INSERT INTO countries SELECT chr(65 + n / 26) || chr(65 + n % 26), 'country ' || n FROM generate_series(0, 49) AS n;
CREATE TABLE customers (
  id integer PRIMARY KEY, name varchar(40) NOT NULL, email text NOT NULL, region text, initials char(3), score numeric(8,2),
  born timestamp, seen timestamptz, meta json, flags integer NOT NULL DEFAULT 0, nick text, temper mood, code plain_code,
  rank positive, net cidr, active boolean DEFAULT true, country char(2), short_note varchar(10), precise timestamp(3)
);
INSERT INTO customers SELECT n, 'name ' || n, n || '@example.org', CASE WHEN n % 10 > 0 THEN 'r' || n % 5 END, 'abc', n % 100,
  '2026-01-01', '2026-01-01 00:00Z', '{}', n, 'nick ' || n, 'calm', 'c' || n, n, '10.0.0.0/8', true, 'AA', 'x', '2026-01-01'
FROM generate_series(1, 12000) AS n;
CREATE TABLE orders (
  id bigint PRIMARY KEY, customer_id integer NOT NULL REFERENCES customers (id), total numeric(10,2) NOT NULL,
  status varchar(20) NOT NULL DEFAULT 'new', placed_on date NOT NULL, ref uuid, remark text, quantity integer NOT NULL
  CHECK (quantity >= 0), price integer NOT NULL, doubled integer GENERATED ALWAYS AS (price * 2) STORED, payload text,
  country char(2), hint varchar(30), tag text,
  CONSTRAINT orders_payload_present CHECK (payload IS NOT NULL)
);
INSERT INTO orders (id, customer_id, total, status, placed_on, ref, remark, quantity, price, payload, country, hint, tag)
SELECT n, n, n, 'new', date '2026-01-01' + n % 300, NULL, CASE WHEN n % 10 > 0 THEN 'r' END, 1, n, 'p', 'AA', 'h', 't' || n
FROM generate_series(1, 12000) AS n;
CREATE INDEX orders_customer_idx ON orders (customer_id);
CREATE INDEX orders_placed_idx ON orders (placed_on);
CREATE INDEX orders_hint_idx ON orders (hint);
CREATE INDEX customers_born_idx ON customers (born);
ALTER TABLE orders ADD CONSTRAINT orders_price_ok CHECK (price > 0) NOT VALID;
ALTER TABLE orders ADD CONSTRAINT orders_country_fk FOREIGN KEY (country) REFERENCES countries NOT VALID;
ALTER TABLE orders ADD CONSTRAINT orders_tag_present CHECK (tag IS NOT NULL AND length(tag) > 0);
CREATE TRIGGER orders_touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE audit_log (id bigint PRIMARY KEY, body text);
CREATE TABLE lines (order_id bigint NOT NULL, sku text NOT NULL, n integer, k integer NOT NULL, partial_key integer NOT NULL);
INSERT INTO lines SELECT n, 'sku' || n, n, n, n FROM generate_series(1, 12000) AS n;
CREATE UNIQUE INDEX lines_natural ON lines (order_id, sku);
CREATE UNIQUE INDEX lines_n ON lines (n);
CREATE UNIQUE INDEX lines_k ON lines (k);
CREATE UNIQUE INDEX lines_partial ON lines (partial_key) WHERE partial_key > 5;
CREATE INDEX lines_sku ON lines (sku);
CREATE TABLE events (id bigint NOT NULL, day date NOT NULL, body text) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO events SELECT n, '2026-01-15', 'b' FROM generate_series(1, 12000) AS n;
INSERT INTO events SELECT n, '2026-02-15', 'b' FROM generate_series(1, 12000) AS n;
CREATE TABLE events_3 (id bigint NOT NULL, day date NOT NULL, body text,
  CONSTRAINT events_3_day CHECK (day >= '2026-03-01' AND day < '2026-04-01'));
INSERT INTO events_3 SELECT n, '2026-03-15', 'b' FROM generate_series(1, 12000) AS n;
CREATE TABLE events_4 (id bigint NOT NULL, day date NOT NULL, body text);
INSERT INTO events_4 SELECT n, '2026-04-15', 'b' FROM generate_series(1, 12000) AS n;
CREATE TABLE events_5 (id bigint NOT NULL, day date NOT NULL, body text);
CREATE TABLE logs (id bigint NOT NULL, kind text NOT NULL) PARTITION BY LIST (kind);
CREATE TABLE logs_a PARTITION OF logs FOR VALUES IN ('a');
CREATE TABLE logs_rest PARTITION OF logs DEFAULT;
CREATE INDEX logs_id ON logs (id);
INSERT INTO logs SELECT n, 'a' FROM generate_series(1, 12000) AS n;
INSERT INTO logs SELECT n, 'z' FROM generate_series(1, 12000) AS n;
CREATE TABLE logs_b (id bigint NOT NULL, kind text NOT NULL);
CREATE MATERIALIZED VIEW totals AS SELECT id, total FROM orders;
CREATE UNIQUE INDEX totals_id ON totals (id);
CREATE MATERIALIZED VIEW plain_totals AS SELECT id, total FROM orders;
CREATE VIEW customer_names AS SELECT id, name FROM customers;
CREATE UNLOGGED TABLE sessions (id integer PRIMARY KEY, body text);
INSERT INTO sessions SELECT n, 'b' FROM generate_series(1, 12000) AS n;
CREATE TABLE archive.old_orders (id bigint PRIMARY KEY, body text);
INSERT INTO archive.old_orders SELECT n, 'b' FROM generate_series(1, 12000) AS n;
CREATE TABLE scratch (id integer, body text);
INSERT INTO scratch SELECT n, 'b' FROM generate_series(1, 12000) AS n;
ANALYZE;
