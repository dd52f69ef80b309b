-- Key columns of index ?1 in order; NULL for an expression.
SELECT name FROM pragma_index_xinfo(?1, 'main') WHERE "key" = 1 ORDER BY seqno
