-- What the application that was written before the migration goes on to run.
SELECT id, name, email, region, flags, nick FROM customers LIMIT 1;
INSERT INTO customers (id, name, email) VALUES (-1, 'n', 'e');
UPDATE customers SET email = 'f', temper = 'cross' WHERE id = 5;
SELECT id, customer_id, total, status, remark, quantity, price, payload FROM orders LIMIT 1;
INSERT INTO orders (id, customer_id, total, placed_on, quantity, price, payload, tag) VALUES (-1, 7, 1, '2026-01-01', 1, 1, 'p', 't');
SELECT code, name FROM countries LIMIT 1;
INSERT INTO audit_log (id, body) VALUES (-1, 'b');
INSERT INTO events (id, day, body) VALUES (-1, '2026-01-20', 'b');
SELECT id, day FROM events WHERE day = '2026-02-15' LIMIT 1;
INSERT INTO lines (order_id, sku, k, partial_key) VALUES (-1, 's', -1, -1);
SELECT id, total FROM totals LIMIT 1;
SELECT id, total FROM plain_totals LIMIT 1;
SELECT id, name FROM customer_names LIMIT 1;
SELECT id, body FROM archive.old_orders LIMIT 1;
SELECT id, body FROM sessions LIMIT 1;
SELECT nextval('invoice_number');
SELECT dice();
