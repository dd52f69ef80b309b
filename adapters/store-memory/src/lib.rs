//! Reference store for tests: tables in memory behind the same contract.
