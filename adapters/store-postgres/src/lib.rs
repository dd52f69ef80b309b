//! PostgreSQL behind the store contract.
