//! The mission's escalation triggers and violations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why the PM must hear of something at once; one per line of the mission's two lists, where they name the same
/// thing once.
///
/// Source: mission, "Escalation Triggers" and "Enhanced Violation Monitoring & Reporting".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Potential data loss scenarios.
    DataLossRisk,
    /// Persistent API failures affecting operations.
    AiApiFailure,
    /// Significant database performance issues; performance below thresholds.
    PerformanceDegradation,
    /// Data security breaches or vulnerabilities.
    SecurityViolation,
    /// AI API costs exceeding budget thresholds.
    CostOverrun,
    /// Data handling violating regulatory requirements.
    ComplianceViolation,
    /// Unauthorized database access attempts.
    DataAccessViolation,
    /// Improper AI API usage or key exposure.
    AiApiMisuse,
    /// Failed backup or recovery procedures.
    BackupFailure,
    /// Data integrity issues or corruption.
    DataCorruption,
    /// A decision that the data engineer cannot take alone.
    DecisionRequired,
}

impl Trigger {
    /// The name used in the ledger, webhooks and output, such as `data_loss_risk`.
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::DataLossRisk => "data_loss_risk",
            Trigger::AiApiFailure => "ai_api_failure",
            Trigger::PerformanceDegradation => "performance_degradation",
            Trigger::SecurityViolation => "security_violation",
            Trigger::CostOverrun => "cost_overrun",
            Trigger::ComplianceViolation => "compliance_violation",
            Trigger::DataAccessViolation => "data_access_violation",
            Trigger::AiApiMisuse => "ai_api_misuse",
            Trigger::BackupFailure => "backup_failure",
            Trigger::DataCorruption => "data_corruption",
            Trigger::DecisionRequired => "decision_required",
        }
    }
}
