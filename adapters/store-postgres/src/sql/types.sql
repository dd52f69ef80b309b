-- Types as they are written, with the collation where it is not the type's own.
-- $1, $2, $3: oids of the types, their modifiers and the collations, as many of each.
SELECT
  w.type_oid,
  w.modifier,
  w.collation_oid,
  format_type(w.type_oid, w.modifier)
    || CASE WHEN w.collation_oid <> t.typcollation THEN ' COLLATE ' || w.collation_oid::regcollation::text ELSE '' END
FROM unnest($1, $2, $3) AS w (type_oid, modifier, collation_oid)
JOIN pg_type t ON t.oid = w.type_oid
