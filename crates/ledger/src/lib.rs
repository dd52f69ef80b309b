//! Steward's own state: a chain of events, and the tables of jobs, leases, approvals, evidence and people.
