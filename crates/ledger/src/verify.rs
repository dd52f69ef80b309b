//! Whether the chain is what was written: every entry, every body, and its end against the signed head.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use contract::{Error, ErrorKind};
use serde::Serialize;

use crate::event::{FIRST_PREV_HASH, Header};
use crate::head::Signer;
use crate::seal::{Sealer, body_belongs_to, hex_hash};
use crate::sqlite::{Connection, RawRow};
use crate::{Head, Ledger};

/// What [`Ledger::verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Entries read before the first problem, or all of them.
    pub events: u64,
    /// Bodies that were opened and match their entry.
    pub bodies: u64,
    /// Bodies that are missing as a later erasure event says.
    pub erased: u64,
    /// Hash of the last good entry, hex; 64 zeros for an empty chain.
    pub hash: String,
    /// Place of the latest head that the chain was checked against, if there is one.
    pub head_seq: Option<u64>,
    /// The first bad entry; `None`: the chain is whole.
    pub problem: Option<Problem>,
}

impl Verified {
    /// Whether the chain is whole.
    pub fn is_whole(&self) -> bool {
        self.problem.is_none()
    }
}

/// The first bad entry of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its place.
    pub seq: u64,
    /// What is wrong with it, in a sentence without its full stop.
    pub why: String,
}

impl Ledger {
    /// Reads the whole chain and checks it against the head file. Memory does not grow with the chain.
    ///
    /// Entries are added meanwhile without harm: all readings are of one state. A hash that was made anew after an
    /// edit is found at the entry after it, or by the head.
    ///
    /// # Errors
    ///
    /// `Corrupt`: the file itself is damaged. A chain that is not whole is no error but a [`Problem`].
    pub async fn verify(&self) -> Result<Verified, Error> {
        self.verify_with(None).await
    }

    /// The same, and against a head that was kept elsewhere: whoever can write here cannot cut what it covers.
    ///
    /// # Errors
    ///
    /// As [`Ledger::verify`].
    pub async fn verify_against(&self, head: &Head) -> Result<Verified, Error> {
        self.verify_with(Some(head.clone())).await
    }

    async fn verify_with(&self, copy: Option<Head>) -> Result<Verified, Error> {
        self.settle().await;
        let (sealer, signer) = (Arc::clone(&self.0.sealer), Arc::clone(&self.0.signer));
        let head_file = self.0.head_file.clone();
        self.read(move |connection| {
            // The head is read before the chain, which may only grow in between.
            let heads = Heads::read(&head_file, copy, &signer)?;
            connection.begin_read()?;
            let verified = verify(connection, &sealer, heads);
            connection.rollback();
            verified
        })
        .await
    }
}

/// What the heads demand of the chain.
struct Heads {
    /// Place and hash of each head that is signed well, with its name.
    demanded: Vec<(u64, String, &'static str)>,
    /// Why a head is no good; the entry is the one that it names, if it can be read.
    problem: Option<Problem>,
}

impl Heads {
    fn read(file: &Path, copy: Option<Head>, signer: &Signer) -> Result<Self, Error> {
        let mut heads = Heads { demanded: Vec::new(), problem: None };
        match Head::read(file) {
            Ok(head) => heads.add(head, "the head file", signer),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                heads.problem = Some(Problem { seq: 0, why: "the head file is not a head".to_owned() });
            }
            Err(error) => return Err(error),
        }
        if let Some(copy) = copy {
            heads.add(copy, "the copy of the head", signer);
        }
        Ok(heads)
    }

    fn add(&mut self, head: Head, name: &'static str, signer: &Signer) {
        if signer.signed(&head) {
            self.demanded.push((head.seq, head.hash, name));
        } else if self.problem.is_none() {
            let why = format!("{name} names this entry, but is not signed with this ledger's key");
            self.problem = Some(Problem { seq: head.seq, why });
        }
    }
}

const EVENTS: &str = "SELECT seq, id, project, at_us, kind, actor, subject, task, body_hash, prev_hash, hash \
                      FROM events ORDER BY seq";
const BODIES: &str = "SELECT seq, body FROM bodies ORDER BY seq";
/// `hash` is in no index, so that the answer comes from the entry itself, which the pass checks when it gets there.
const ERASED_LATER: &str = "SELECT hash FROM events \
                            WHERE kind = 'audit.erasure' AND subject = ? AND seq > ? AND project = ? LIMIT 1";

fn verify(connection: &Connection, sealer: &Sealer, heads: Heads) -> Result<Verified, Error> {
    let mut chain = Chain {
        connection,
        sealer,
        seq: 0,
        hash: FIRST_PREV_HASH.as_bytes().try_into().expect("64 digits"),
        bodies: 0,
        erased: 0,
        demanded: heads.demanded,
        belongs_to: Vec::with_capacity(128),
        buffer: Vec::with_capacity(4096),
    };
    let mut problem = None;
    connection.stream_joined(EVENTS, BODIES, |event, body| {
        problem = chain.check(event, body)?;
        Ok(problem.is_none())
    })?;
    let events = u64::try_from(chain.seq).expect("places are counted up from 0");
    let problem = problem
        .map(|why| Problem { seq: events + 1, why })
        .or_else(|| {
            let (seq, _, name) = chain.demanded.iter().find(|(seq, _, _)| *seq > events)?;
            let why = format!("it is missing: the chain ends before it, while {name} names entry {seq}");
            Some(Problem { seq: events + 1, why })
        })
        .or(heads.problem)
        .or_else(|| {
            let why = "it is the last, and there is no head to say that nothing came after it".to_owned();
            (events > 0 && chain.demanded.is_empty()).then_some(Problem { seq: events, why })
        });
    Ok(Verified {
        events,
        bodies: chain.bodies,
        erased: chain.erased,
        hash: String::from_utf8_lossy(&chain.hash).into_owned(),
        head_seq: chain.demanded.iter().map(|(seq, _, _)| *seq).max(),
        problem,
    })
}

/// How far the check has come: up to entry `seq`, whose hash is `hash`, all is well.
struct Chain<'a> {
    connection: &'a Connection,
    sealer: &'a Sealer,
    seq: i64,
    hash: [u8; 64],
    bodies: u64,
    erased: u64,
    demanded: Vec<(u64, String, &'static str)>,
    belongs_to: Vec<u8>,
    buffer: Vec<u8>,
}

impl Chain<'_> {
    /// Checks the next entry; says what is wrong with it, if anything.
    fn check(
        &mut self,
        event: Option<&RawRow<'_>>,
        body: Option<&RawRow<'_>>,
    ) -> Result<Option<String>, Error> {
        let bad = |why: &str| Ok(Some(why.to_owned()));
        let seq = self.seq + 1;
        let Some(event) = event else {
            return bad("it is missing, while a body without an entry lies there");
        };
        if event.integer(0) != Some(seq) {
            return bad("it is missing");
        }
        let header = (|| {
            Some(Header {
                seq,
                id: event.text(1)?,
                project: event.text(2)?,
                at_us: event.integer(3)?,
                kind: event.text(4)?,
                actor: event.text(5)?,
                subject: event.text(6)?,
                task: event.text(7)?,
                body_hash: event.text(8)?,
                prev_hash: event.text(9)?,
            })
        })();
        let Some(header) = header else { return bad("a field of its header has another type") };
        if header.prev_hash != self.hash {
            return bad("it does not follow from the entry before it, or that one was changed");
        }
        let hash = hex_hash(&header.hash(&mut self.buffer));
        if event.text(10) != Some(&hash) {
            return bad("its header was changed");
        }
        if let Some(body) = body {
            body_belongs_to(seq, header.id, &mut self.belongs_to);
            let plain =
                body.blob(1).and_then(|sealed| self.sealer.open(sealed, &self.belongs_to, &mut self.buffer));
            let Some(plain) = plain else { return bad("its body was changed or moved") };
            let mut digest = [0; 32];
            digest.copy_from_slice(digest::digest(&digest::SHA256, plain).as_ref());
            if hex_hash(&digest) != header.body_hash {
                return bad("its body is not the one that it was written with");
            }
            self.bodies += 1;
        } else {
            let project = String::from_utf8_lossy(header.project).into_owned();
            let parameters = [format!("event:{seq}").into(), seq.into(), project.into()];
            if self.connection.query(ERASED_LATER, &parameters)?.is_empty() {
                return bad("its body is missing without an erasure event");
            }
            self.erased += 1;
        }
        let place = seq.unsigned_abs();
        for (demanded, demanded_hash, name) in &self.demanded {
            if *demanded == place && demanded_hash.as_bytes() != hash {
                return Ok(Some(format!("it is another entry than {name} names")));
            }
        }
        self.seq = seq;
        self.hash = hash;
        Ok(None)
    }
}
