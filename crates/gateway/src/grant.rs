//! Who may call what, asked of the authority matrix once, when the table is built.
//!
//! The hot path reads the answers and never asks Cedar. What can be asked is finite: each route, provider and
//! pass-through of the project file.

use std::collections::BTreeSet;
use std::sync::Arc;

use authority::{Authority, Environment, Facts, Question};
use contract::{Clock, Context};

use crate::key::VirtualKey;
use crate::table::{Reach, Rights};

/// The action that every call is.
const CALL: &str = "ai.call";
/// The action of training.
const FINE_TUNE: &str = "ai.finetune";

/// What can be called in a project.
#[derive(Debug, Clone, Copy)]
pub struct Callable<'a> {
    /// Routes; decided about as `ai:route/NAME`.
    pub routes: &'a [String],
    /// Providers, whose models may be called by themselves; decided about as `ai:provider/NAME`.
    pub providers: &'a [String],
    /// Pass-through routes; decided about as `ai:pass_through/NAME`.
    pub pass_through: &'a [String],
}

/// Asks the matrix everything that can be asked about this key: what it may reach is what both its own scope and the
/// matrix allow.
///
/// A decision that needs an approval is no permission: nobody approves a single call.
pub fn compile(
    authority: &Authority,
    environment: Environment,
    clock: &Arc<dyn Clock>,
    key: &VirtualKey,
    callable: Callable<'_>,
) -> (Reach, Rights) {
    let ctx = Context::new(&key.project, key.actor()).with_clock(Arc::clone(clock));
    let may = |action: &str, resource: String| {
        let facts = Facts { environment, ..Facts::default() };
        authority.decide(&ctx, &Question::new(action, resource).with_facts(facts), &[]).is_permitted()
    };
    let mut names: BTreeSet<Box<str>> = BTreeSet::new();
    for (kind, known) in [("route", callable.routes), ("pass_through", callable.pass_through)] {
        let allowed =
            known.iter().filter(|name| key.names_route(name) && may(CALL, format!("ai:{kind}/{name}")));
        names.extend(allowed.map(|name| Box::from(name.as_str())));
    }
    for provider in callable.providers {
        if key.names_provider(provider) && may(CALL, format!("ai:provider/{provider}")) {
            names.extend(key.models.iter().filter_map(|pattern| match pattern.split_once('/') {
                None => Some(format!("{provider}/*").into()),
                Some((of, _)) => (of == provider).then(|| Box::from(pattern.as_str())),
            }));
        }
    }
    let rights =
        Rights { call: !names.is_empty(), fine_tune: may(FINE_TUNE, format!("project:{}", key.project)) };
    (Reach::Named(names), rights)
}
