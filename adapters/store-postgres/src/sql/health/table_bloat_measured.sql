-- The five largest tables measured: bytes in all, bytes of dead rows and free bytes. Pages that are wholly visible are
-- judged by the free space map.
SELECT
  t.full_name AS name, m.table_len AS bytes, m.dead_tuple_len AS dead_bytes, m.approx_free_space::float8 AS free_bytes
FROM (
  SELECT * FROM {tables} c WHERE c.relkind IN ('r', 'm') AND c.relpages >= 128 ORDER BY c.relpages DESC LIMIT 5
) AS t
CROSS JOIN LATERAL {schema}.pgstattuple_approx(t.oid::regclass) m
