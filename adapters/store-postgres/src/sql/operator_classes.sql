-- The operator classes that a B-tree takes when none is named, by the type they are for.
SELECT o.oid, o.opcintype AS type_oid
FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
WHERE m.amname = 'btree' AND o.opcdefault
