//! Cases of a seeded generator: what an agent may try so that a value of a tagged column reaches it.
//!
//! The same seed gives the same cases; the choices of one can be made again, smaller (see [`super::run`]).

use interceptor::testing::draw::Draw;

use super::run::{ASKING, FAILING};

/// One case: steps of one session (see [`super::agent`]).
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    /// What sort of way it tries.
    pub(crate) class: &'static str,
    pub(crate) steps: Vec<String>,
    /// Steps that clean up after one that could not be rolled back.
    pub(crate) after: Vec<String>,
    /// It reads no tagged column.
    pub(crate) plain: bool,
}

/// Draws cases.
pub(crate) struct Corpus {
    pub(super) draws: Draw,
    pub(super) depth: u32,
    /// Whether values are of tagged columns.
    pub(super) tagged: bool,
    /// Whether values are kept so that they can be found again.
    pub(super) mild: bool,
    /// Major version of the server.
    pub(super) version: u32,
}

impl Corpus {
    /// A generator for a server of that version.
    pub(crate) const fn new(draws: Draw, version: u32) -> Self {
        Self { draws, depth: 0, tagged: true, mild: false, version }
    }

    /// The same, whose values are not hashed, counted or compared.
    pub(crate) fn mild(self) -> Self {
        Self { mild: true, ..self }
    }

    /// The next case, and the choices that it was made of.
    pub(crate) fn next(&mut self) -> (Case, Vec<usize>) {
        let _of_before = self.draws.take_choices();
        let case = self.case();
        (case, self.draws.take_choices())
    }

    fn case(&mut self) -> Case {
        self.tagged = true;
        match self.draws.below(100) {
            0..=34 => self.delivered(false),
            35..=44 => self.delivered(true),
            45..=52 => self.made("write, then read", Self::written),
            53..=57 => self.made("RETURNING", Self::returning),
            58..=66 => self.made("define, then read", Self::defined),
            67..=72 => self.failing_case(),
            73..=78 => self.made("channel", Self::channel),
            79..=83 => self.made("statistics and EXPLAIN", Self::explained),
            84..=88 => self.made("sequence of steps", Self::staged),
            _ => self.asking_case(),
        }
    }

    /// A case without tagged columns.
    pub(crate) fn plain_case(&mut self) -> Case {
        self.delivered(true)
    }

    /// A case whose error would quote a value.
    pub(crate) fn failing_case(&mut self) -> Case {
        self.tagged = true;
        self.made(FAILING, Self::failing)
    }

    /// A case that asks about a value.
    pub(crate) fn asking_case(&mut self) -> Case {
        self.tagged = true;
        self.made(ASKING, Self::filtered)
    }

    /// Steps in a transaction that is rolled back.
    fn made(&mut self, class: &'static str, steps: fn(&mut Self) -> Vec<String>) -> Case {
        self.depth = 0;
        let mut all = vec!["BEGIN".to_owned()];
        all.extend(steps(self));
        Case { class, steps: all, after: vec!["ROLLBACK".to_owned(), "DISCARD ALL".to_owned()], plain: false }
    }

    /// A query, and a way for its result to come.
    fn delivered(&mut self, plain: bool) -> Case {
        self.tagged = !plain;
        let query = self.query();
        let way = self.draws.below(20);
        let case = |class: &'static str, steps: Vec<String>, after: &[&str]| {
            let after = after.iter().map(|step| (*step).to_owned()).collect();
            Case { class: if plain { "untagged" } else { class }, steps, after, plain }
        };
        match way {
            0..=5 => case("query", vec![query], &[]),
            6 | 7 => case("query, extended, text", vec![format!(":text {query}")], &[]),
            8 | 9 => case("query, extended, binary", vec![format!(":binary {query}")], &[]),
            10 => case("COPY", vec![format!("COPY ({query}) TO STDOUT")], &[]),
            11 => case("COPY", vec![format!("COPY ({query}) TO STDOUT (FORMAT csv, HEADER)")], &[]),
            12 => case("COPY", vec![format!("COPY ({query}) TO STDOUT (FORMAT binary)")], &[]),
            13 | 14 => {
                let (kind, fetch) = (
                    self.draws.one(&["", "BINARY ", "SCROLL ", "NO SCROLL ", "INSENSITIVE "]),
                    self.draws.one(&[
                        "FETCH ALL FROM c",
                        "FETCH NEXT FROM c",
                        "FETCH 2 FROM c",
                        ":text FETCH ALL FROM c",
                        ":binary FETCH ALL FROM c",
                    ]),
                );
                let declare = format!("DECLARE c {kind}CURSOR FOR {query}");
                case("cursor", vec!["BEGIN".into(), declare, fetch.into()], &["ROLLBACK"])
            }
            15 => {
                let declare = format!("DECLARE c CURSOR WITH HOLD FOR {query}");
                let steps =
                    vec!["BEGIN".into(), declare, "MOVE 0 FROM c".into(), "COMMIT".into(), "FETCH ALL FROM c".into()];
                case("cursor", steps, &["CLOSE c"])
            }
            16 | 17 => {
                let run = self.draws.one(&["EXECUTE q", ":text EXECUTE q", ":binary EXECUTE q", ":run q", ":runbin q"]);
                case("prepared", vec![format!("PREPARE q AS {query}"), run.into()], &["DEALLOCATE ALL"])
            }
            18 => {
                let steps =
                    vec![format!(":parse q {query}"), ":describe q".into(), ":runbin q".into(), "EXECUTE q".into()];
                case("prepared", steps, &["DEALLOCATE ALL"])
            }
            _ => case("several statements", vec![format!("SELECT 1; {query}; SELECT 2")], &[]),
        }
    }
}
