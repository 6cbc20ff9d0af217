//! A target that behaves as a server does, and understands a few words.
//!
//! `select` and `masked` give two rows, of which those of `masked` are [`SECRET`]; `fail` fails, `masked_fail` quotes what
//! it read; `defer` fails when its transaction is committed, and quotes what that has read; `begin`, `commit`, `rollback`, `copyin`, `copyout`, `set` do what
//! they say. Anything else is no statement.
//!
//! A target can also be played alone, as one that refuses by itself what the gate would refuse. What an agent hears from
//! that one is what it should hear through the machine.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;

use super::super::super::codec::{Field, Frame, Frontend, Side, write};
use super::analyst::{TABLE, words};

/// What must never reach the agent.
pub(in super::super) const SECRET: &str = "SECRET";

/// Rows of each answer.
const ROWS: usize = 2;

#[derive(Clone, Debug)]
struct Portal {
    text: String,
    left: usize,
}

#[derive(Debug)]
struct Copying {
    simple: bool,
    /// Words of the same Query that are still to come.
    rest: Vec<String>,
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ran {
    Done,
    Failed,
    /// It waits for data.
    Copies,
}

/// The target.
#[derive(Debug)]
pub(in super::super) struct Target {
    /// Whether it refuses by itself.
    alone: bool,
    status: u8,
    skip: bool,
    copying: Option<Copying>,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, Portal>,
    deferred: bool,
    secret: bool,
    /// Answers that are held back until something flushes them.
    held: VecDeque<Vec<u8>>,
    /// Answers that are under way.
    pub(in super::super) said: VecDeque<Vec<u8>>,
}

impl Target {
    pub(in super::super) fn new(alone: bool) -> Self {
        Self {
            alone,
            status: b'I',
            skip: false,
            copying: None,
            statements: HashMap::new(),
            portals: HashMap::new(),
            deferred: false,
            secret: false,
            held: VecDeque::new(),
            said: VecDeque::new(),
        }
    }

    /// Says something that nobody asked for.
    pub(in super::super) fn mutter(&mut self) {
        self.say(|out| write::notice(out, b'N', [(b'C', &b"00000"[..]), (b'M', &b"a notice"[..])]));
        self.say(|out| write::parameter_status(out, b"application_name", b"a"));
        self.flush();
    }

    /// Takes a message of the agent.
    pub(in super::super) fn take(&mut self, frame: Frame<'_>) {
        let message = Frontend::decode(frame).expect("the machine forwards what is well-formed");
        if self.copying.is_some() {
            return self.copy(&message);
        }
        match message {
            Frontend::Sync => self.sync(),
            _ if self.skip => {}
            Frontend::Query(text) => self.query(&String::from_utf8_lossy(text)),
            Frontend::Parse { name, text, .. } => self.parse(name, &String::from_utf8_lossy(text)),
            Frontend::Bind(bind) => self.bind(bind.portal, bind.statement),
            Frontend::Execute { portal, max_rows } => self.execute(portal, max_rows),
            Frontend::Describe(side, name) => self.describe(side, name),
            Frontend::Close(side, name) => {
                match side {
                    Side::Statement => self.statements.retain(|known, _| known != name),
                    Side::Portal => self.portals.retain(|known, _| known != name),
                }
                self.bare(b'3');
            }
            Frontend::Flush => self.flush(),
            Frontend::FunctionCall(_) => {
                if self.status == b'E' {
                    self.fail("25P02");
                } else {
                    self.say(|out| write::message(out, b'V', |out| out.extend_from_slice(&[255; 4])));
                }
                self.ready();
            }
            Frontend::CopyData(_) | Frontend::CopyDone | Frontend::CopyFail(_) | Frontend::Terminate => {}
            Frontend::Password(_) => panic!("a password reached the target"),
        }
    }

    /// Whether the text must be refused: never asked of a target behind the machine.
    fn refuses(&self, text: &str, runs: bool) -> bool {
        let refused = text.contains("deny") || (runs && text.contains("norun"));
        assert!(self.alone || !refused, "what was refused reached the target: {text}");
        refused
    }

    fn query(&mut self, text: &str) {
        if self.refuses(text, true) {
            self.fail("42501");
        } else if words(text).next().is_none() {
            self.bare(b'I');
        } else if words(text).any(|word| !KNOWN.contains(&word)) {
            self.fail("42601");
        } else {
            return self.resume(words(text).map(str::to_owned).collect());
        }
        self.ready();
    }

    /// Runs what is left of a Query.
    fn resume(&mut self, mut rest: Vec<String>) {
        while !rest.is_empty() {
            let word = rest.remove(0);
            match self.run(&word, true, ROWS) {
                Ran::Done => self.complete(&word),
                Ran::Failed => break,
                Ran::Copies => {
                    self.copying = Some(Copying { simple: true, rest });
                    return;
                }
            }
        }
        self.ready();
    }

    fn parse(&mut self, name: &[u8], text: &str) {
        // What goes before a question of the machine's own.
        let text = if text.contains("set_config") { "state" } else { text };
        let known = words(text).all(|word| KNOWN.contains(&word));
        let exits = words(text).all(exits);
        if self.refuses(text, false) {
            self.fail("42501");
        } else if !known || words(text).count() > 1 {
            self.fail("42601");
        } else if self.status == b'E' && !exits {
            self.fail("25P02");
        } else if !name.is_empty() && self.statements.contains_key(name) {
            self.fail("42P05");
        } else {
            self.statements.insert(name.to_vec(), text.trim().to_owned());
            self.bare(b'1');
            return;
        }
        self.skip = true;
    }

    fn bind(&mut self, portal: &[u8], statement: &[u8]) {
        let text = self.statements.get(statement).cloned();
        match text {
            Some(text) if self.status != b'E' || exits(&text) || text.is_empty() => {
                if !portal.is_empty() && self.portals.contains_key(portal) {
                    self.fail("42P03");
                } else {
                    self.portals.insert(portal.to_vec(), Portal { text, left: ROWS });
                    self.bare(b'2');
                    return;
                }
            }
            Some(_) => self.fail("25P02"),
            None => self.fail("26000"),
        }
        self.skip = true;
    }

    fn describe(&mut self, side: Side, name: &[u8]) {
        let text = match side {
            Side::Statement => self.statements.get(name).cloned(),
            Side::Portal => self.portals.get(name).map(|portal| portal.text.clone()),
        };
        let Some(text) = text else {
            self.fail("34000");
            self.skip = true;
            return;
        };
        if side == Side::Statement {
            self.say(|out| write::message(out, b't', |out| out.extend_from_slice(&[0, 0])));
        }
        if gives_rows(&text) { self.columns() } else { self.bare(b'n') }
    }

    fn execute(&mut self, name: &[u8], max_rows: i32) {
        let found = self.portals.get(name).cloned();
        let Some(mut portal) = found else {
            self.fail("34000");
            self.skip = true;
            return;
        };
        if portal.text.is_empty() {
            return self.bare(b'I');
        }
        if self.refuses(&portal.text, true) {
            self.fail("42501");
            self.skip = true;
            return;
        }
        let most = usize::try_from(max_rows).ok().filter(|most| *most > 0).unwrap_or(ROWS).min(portal.left);
        match self.run(&portal.text, false, most) {
            Ran::Done => {
                portal.left -= most;
                if gives_rows(&portal.text) && max_rows > 0 && portal.left > 0 {
                    self.bare(b's');
                } else {
                    self.complete(&portal.text);
                }
                if let Some(known) = self.portals.get_mut(name) {
                    *known = portal;
                }
            }
            Ran::Failed => self.skip = true,
            Ran::Copies => self.copying = Some(Copying { simple: false, rest: Vec::new() }),
        }
    }

    fn run(&mut self, word: &str, described: bool, rows: usize) -> Ran {
        if self.status == b'E' && !exits(word) {
            self.fail("25P02");
            return Ran::Failed;
        }
        match word {
            "fail" => {
                self.fail("22012");
                return Ran::Failed;
            }
            "masked_fail" => {
                self.secret = !self.alone;
                self.quote("22012");
                return Ran::Failed;
            }
            "begin" => self.status = b'T',
            "commit" | "rollback" => {
                let failed = word == "commit" && self.status == b'T' && self.deferred;
                if failed {
                    self.status = b'I';
                    self.quote("23503");
                }
                self.end(b'I');
                if failed {
                    return Ran::Failed;
                }
            }
            "defer" => self.deferred = true,
            "copyin" => {
                self.say(|out| write::message(out, b'G', |out| out.extend_from_slice(&[0, 0, 0])));
                self.flush();
                return Ran::Copies;
            }
            "copyout" => {
                self.say(|out| write::message(out, b'H', |out| out.extend_from_slice(&[0, 0, 0])));
                self.say(|out| write::message(out, b'd', |out| out.extend_from_slice(b"plain\n")));
                self.bare(b'c');
            }
            _ if gives_rows(word) => {
                // A target that is alone has nothing to hide.
                let secret = word == "masked" && !self.alone;
                self.secret |= secret;
                if described {
                    self.columns();
                }
                let value = if secret { SECRET } else { "plain" };
                for _ in 0..rows {
                    self.say(|out| write::data_row(out, [Some(value.as_bytes())].into_iter()));
                }
            }
            _ => {}
        }
        Ran::Done
    }

    fn copy(&mut self, message: &Frontend<'_>) {
        let Some(Copying { simple, rest }) = self.copying.take() else { return };
        match message {
            Frontend::CopyData(data) if *data != b"wrong" => self.copying = Some(Copying { simple, rest }),
            Frontend::Flush | Frontend::Sync => self.copying = Some(Copying { simple, rest }),
            Frontend::CopyDone => {
                self.complete("copyin");
                if simple {
                    self.resume(rest);
                }
            }
            // Data that is wrong, CopyFail, or what has no place here.
            _ => {
                self.fail("22P04");
                if simple {
                    self.ready();
                } else {
                    self.skip = true;
                }
            }
        }
    }

    fn sync(&mut self) {
        self.skip = false;
        self.ready();
    }

    /// The transaction has ended.
    fn end(&mut self, status: u8) {
        self.status = status;
        self.portals.clear();
        (self.deferred, self.secret) = (false, false);
    }

    fn ready(&mut self) {
        if self.status == b'I' {
            if self.deferred {
                self.quote("23503");
            }
            self.end(b'I');
        }
        if self.status == b'E' {
            // A server would keep those that were bound since it failed; nothing but ROLLBACK could be in them.
            self.portals.clear();
        }
        let status = self.status;
        self.say(|out| write::ready(out, status));
        self.flush();
    }

    /// Says an error that quotes what was read, and has the transaction fail.
    fn quote(&mut self, state: &str) {
        let text = if self.secret { SECRET } else { "it fails" };
        self.error(state, text);
    }

    /// Says an error, and has the transaction fail.
    fn fail(&mut self, state: &str) {
        self.error(state, "it fails");
    }

    fn error(&mut self, state: &str, text: &str) {
        self.say(|out| {
            let fields = [(b'S', &b"ERROR"[..]), (b'C', state.as_bytes()), (b'M', text.as_bytes())];
            write::notice(out, b'E', fields)
        });
        // A server does not hold back an error, nor what comes before it.
        self.flush();
        match self.status {
            b'T' => self.status = b'E',
            b'I' => self.end(b'I'),
            _ => {}
        }
    }

    fn complete(&mut self, word: &str) {
        self.say(|out| write::command_complete(out, word.as_bytes()));
    }

    fn columns(&mut self) {
        let field = Field {
            name: b"c",
            table_oid: TABLE,
            column: 1,
            type_oid: 25,
            type_size: -1,
            type_modifier: -1,
            format: 0,
        };
        self.say(|out| write::row_description(out, [field].into_iter()));
    }

    fn bare(&mut self, tag: u8) {
        self.say(|out| write::bare(out, tag));
    }

    fn say<T>(&mut self, write: impl FnOnce(&mut BytesMut) -> T) {
        let mut out = BytesMut::new();
        let _fits = write(&mut out);
        self.held.push_back(out.to_vec());
    }

    fn flush(&mut self) {
        self.said.append(&mut self.held);
    }
}

const KNOWN: &[&str] = &[
    "begin",
    "bound",
    "commit",
    "copyin",
    "copyout",
    "defer",
    "fail",
    "masked",
    "masked_fail",
    "norun",
    "rollback",
    "select",
    "set",
    "state",
];

fn gives_rows(word: &str) -> bool {
    matches!(word, "select" | "masked" | "norun" | "bound" | "state")
}

/// Whether a failed transaction lets it pass.
fn exits(word: &str) -> bool {
    matches!(word, "commit" | "rollback")
}
