//! Tests on the house: dependency edges, names, adapter shape, licences, generated files.
