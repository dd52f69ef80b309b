//! Virtual keys, grants and rotations on a real ledger and vault, with a scripted provider.

#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod grant;
mod rotate;
mod virtual_key;

use std::sync::Arc;

use authority::{Authority, Question};
use contract::{Actor, Context, Permit, Plan, TestClock};
use gateway::{Fingerprints, Rotations, VirtualKeys};
use ledger::{Keys, Ledger, Options};
use secrecy::{SecretBox, SecretString};
use vault::{KeySource, MasterKey, PutSecret, RotateSecret, Vault};

/// A state in a folder of its own, with a clock that stands still.
pub(crate) struct House {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) ledger: Ledger,
    pub(crate) vault: Vault,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) ctx: Context,
    pub(crate) authority: Authority,
}

impl House {
    pub(crate) async fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let source = KeySource::File(folder.path().join("master.key"));
        let master = MasterKey::create(&source).unwrap();
        let clock = Arc::new(TestClock::at("2026-03-04T05:06:07Z".parse().unwrap()));
        let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
        let options = Options { clock: clock.clone(), ..Options::new(folder.path().join("audit.head")) };
        let ledger = Ledger::open(&folder.path().join("state.db"), keys, options).await.unwrap();
        let vault = Vault::new(ledger.clone(), &master);
        let ctx = Context::new("shop", Actor::local()).with_clock(clock.clone());
        House { folder, vault, ctx, clock, authority: Authority::built_in().unwrap(), ledger }
    }

    pub(crate) fn keys(&self) -> VirtualKeys {
        VirtualKeys::new(self.ledger.clone(), Fingerprints::new(&SecretBox::new(Box::new([7; 32]))))
    }

    pub(crate) fn rotations(&self) -> Rotations {
        Rotations::new(self.ledger.clone(), self.vault.clone())
    }

    pub(crate) fn permit(&self, plan: &Plan, action: &str) -> Permit {
        self.authority.permit(&self.ctx, &Question::new(action, &plan.target), plan, &[]).unwrap()
    }

    pub(crate) async fn put(&self, name: &str, value: &str) {
        let request = PutSecret { name: name.into() };
        let plan = self.vault.plan_put(&self.ctx, &request).await.unwrap();
        let permit = self.permit(&plan, "key.write");
        self.vault.execute(&self.ctx, &permit, &plan, Some(SecretString::from(value))).await.unwrap();
    }

    pub(crate) async fn put_again(&self, name: &str, value: &str) {
        let request = RotateSecret { name: name.into() };
        let plan = self.vault.plan_rotate(&self.ctx, &request).await.unwrap();
        let permit = self.permit(&plan, "key.rotate");
        self.vault.execute(&self.ctx, &permit, &plan, Some(SecretString::from(value))).await.unwrap();
    }

    pub(crate) fn wait_s(&self, seconds: i64) {
        self.clock.advance_us(seconds * 1_000_000);
    }

    /// Everything that lies in the folder, to look for what must not be there.
    pub(crate) fn files(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            all.extend(std::fs::read(entry.unwrap().path()).unwrap());
        }
        all
    }
}
