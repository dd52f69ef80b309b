//! Who may do what: the mission's authority matrix, approvals, people, escalation triggers; mints permits.
