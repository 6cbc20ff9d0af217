//! An analyst and a gate of few words.
//!
//! A text is a list of words, parted by semicolons: each is a statement, and says what it does. `target` plays them.

use std::sync::{Arc, LazyLock};

use super::super::super::analysis::{
    Analysis, CopyDirection, CopyFormat, CopyKind, Known, Missing, Output, OutputColumn, Prepared, Resync,
    SessionEffect, StatementInfo, Transaction,
};
use super::super::super::statement::{Analyst, Reading};
use super::super::{Leave, Question};
use crate::mask::{Config, Rules, Transform};
use crate::policy::{Denial, Facts, Held, Permit, Permitted, Recorded, TagSet};
use crate::telemetry::SessionId;

/// The tag of the column that `masked` reads.
const TAG: &str = "x";

/// OID of the table that all rows are from.
pub(in super::super) const TABLE: u32 = 1;

/// Statements of a text.
pub(in super::super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').map(str::trim).filter(|word| !word.is_empty())
}

/// Rules under which the column that `masked` reads is masked.
pub(in super::super) fn rules() -> Arc<Rules> {
    static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
        let columns = vec!["t.c".to_owned()];
        let entry = Config {
            tag: TAG.to_owned(),
            columns,
            json: Vec::new(),
            detect: Vec::new(),
            base64: false,
            transform: Transform::Redact,
        };
        Arc::new(Rules::compile(&[entry], None).expect("the rules are valid"))
    });
    Arc::clone(&RULES)
}

fn tagged() -> TagSet {
    Arc::new([Arc::from(TAG)].into())
}

/// What the gate says: `deny` and `unknown` never pass, `norun` may be prepared but not run, `masked` runs under an obligation.
pub(in super::super) fn judge(question: &Question) -> Result<Leave, Denial> {
    let text = &*question.command.statement;
    if text.contains("norun") && question.prepares {
        return Ok(Leave::Prepare { _held: Held::scripted("dba") });
    }
    if text.contains("deny") || text.contains("norun") || text.contains("unknown") {
        return Err(super::super::refusal(SessionId::NONE, "this", "the script says so", "write another script"));
    }
    Ok(Leave::Permit(permit(if ["masked", "overtaken"].iter().any(|word| text.contains(word)) { &[TAG] } else { &[] })))
}

/// A permit that masks these tags.
pub(in super::super) fn permit(masked: &[&str]) -> Permit {
    Permitted::scripted(masked).into_permit(Recorded::at(0))
}

/// An analyst of words.
#[derive(Debug, Default)]
pub(in super::super) struct Script {
    /// As [`Analyst::epoch`] says.
    pub(in super::super) epoch: u64,
    /// As [`Analyst::is_stale`] says.
    pub(in super::super) stale: bool,
    /// Nothing makes it stale.
    pub(in super::super) steady: bool,
    /// The text that was parsed last: texts with `long` have to be before they are read.
    pub(in super::super) parsed: Option<Arc<str>>,
    /// How often another session has changed the catalog: it does at each reading of `overtaken`.
    pub(in super::super) changed: u64,
    /// As [`Analyst::read_under`] says.
    pub(in super::super) under: u64,
    /// How often `bound` was read: each time it means something else.
    pub(in super::super) bound: usize,
}

impl Script {
    /// What it wanted to know is known.
    pub(in super::super) const fn refresh(&mut self) {
        self.stale = false;
        self.epoch += 1;
    }

    fn statement(&self, word: &str) -> StatementInfo {
        let copy = |direction| SessionEffect::Copy {
            direction,
            format: CopyFormat {
                kind: CopyKind::Text,
                delimiter: b'\t',
                null: "\\N".to_owned(),
                quote: b'"',
                escape: b'"',
                header: false,
            },
        };
        let effect = match word {
            "begin" => SessionEffect::Transaction(Transaction::Begin),
            "commit" => SessionEffect::Transaction(Transaction::Commit { chain: false }),
            "rollback" => SessionEffect::Transaction(Transaction::Rollback { chain: false }),
            "copyin" => copy(CopyDirection::In),
            "copyout" | "copymasked" => copy(CopyDirection::Out),
            word if word.starts_with("prepare") => SessionEffect::Prepare {
                name: word.chars().take(20).collect::<String>().into(),
                prepared: Arc::new(Prepared { text: word.into(), first: None }),
            },
            _ => SessionEffect::None,
        };
        // At its second reading, and later, `bound` reads what is masked.
        let masks = word.contains("masked") || (word == "bound" && self.bound > 1);
        let tags = if masks { tagged() } else { TagSet::default() };
        let column = OutputColumn { name: Some("c".into()), tags: Arc::clone(&tags), computed: masks, source: None };
        let output = match word {
            "select" | "overtaken" | "masked" | "norun" | "bound" | "copyout" | "copymasked" => {
                Output::Columns(vec![column])
            }
            _ => Output::None,
        };
        let resync = Resync { names: word == "set", catalog: false };
        StatementInfo { kind: "Word", range: 0..0, output, reads_tagged: tags, effect, resync }
    }
}

type Keyed = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

impl Analyst for Script {
    fn read(&mut self, text: &str, _known: &dyn Known) -> Arc<Reading> {
        assert!(self.is_parsed(text), "read before it was parsed: {text}");
        let session_bound = text.contains("bound");
        self.bound += usize::from(session_bound);
        self.under = self.changed;
        self.changed += u64::from(text.contains("overtaken"));
        // Texts that always mean the same have the same number: their maskers are used again.
        let id =
            std::hash::BuildHasher::hash_one(&Keyed::default(), (text, if session_bound { self.bound } else { 0 }));
        let analysis = Analysis {
            id,
            actions: Arc::from([]),
            facts: Arc::new(Facts::default()),
            statements: words(text).map(|word| self.statement(word)).collect(),
            session_bound,
            opaque: text.contains("opaque"),
            uses_constants: false,
            prepares: false,
            missing: text.contains("unknown").then(|| Missing {
                state: "42P01",
                message: "relation \"unknown\" does not exist".to_owned(),
                in_catalog: true,
            }),
        };
        Arc::new(Reading::new(text.into(), Arc::new(analysis), self.epoch))
    }

    fn is_parsed(&self, text: &str) -> bool {
        !text.contains("long") || self.parsed.as_deref() == Some(text)
    }

    fn opaque(&mut self, _what: &str, _why: &str) -> Arc<Reading> {
        self.read("opaque", &super::super::super::analysis::NothingKnown)
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn version(&self) -> u64 {
        self.changed
    }

    fn read_under(&self) -> u64 {
        self.under
    }

    fn announce(&self) -> u64 {
        self.changed
    }

    fn is_stale(&self) -> bool {
        self.stale
    }

    fn surprise(&mut self) {}

    fn touch(&mut self, names: bool, catalog: bool) {
        self.stale |= (names || catalog) && !self.steady;
    }

    fn doubt(&mut self, reading: &Reading) -> bool {
        let doubts = reading.analysis.missing.is_some();
        self.touch(doubts, doubts);
        doubts
    }

    fn column_tags(&self, table: u32, _column: i16, _traced: bool) -> Option<TagSet> {
        (table == TABLE).then(TagSet::default)
    }

    fn column_type(&self, _table: u32, _column: i16) -> Option<u32> {
        None
    }

    fn is_text(&self, _type_oid: u32) -> bool {
        false
    }

    fn runs_code(&self, _type_oid: u32) -> bool {
        false
    }

    fn setting(&mut self, name: &[u8], _value: &[u8]) {
        self.stale |= name == b"client_encoding" && !self.steady;
    }
}
