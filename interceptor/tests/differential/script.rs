//! psql's scripts, read as psql reads them: statement by statement, with its variables.
//!
//! Of its commands `\set`, `\getenv`, `\gset`, `\gexec`, `\if` and `\c -` count; all that only show something are left out.

use std::collections::HashMap;

/// A script, and how far it was read.
pub(crate) struct Script {
    text: Vec<char>,
    at: usize,
    variables: HashMap<String, String>,
    environment: HashMap<String, String>,
    /// For each open `\if`: whether its branch runs, and whether one of it has run.
    branches: Vec<(bool, bool)>,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A text for the server, and the command that ends it: `;`, `g`, `gset`, `gexec`, `gdesc` ...
    Statement {
        /// Without its terminator.
        text: String,
        /// See above.
        end: String,
        /// What stands after the command.
        argument: String,
    },
    /// A new connection.
    Connect,
    /// A command of psql that is left out.
    Skipped,
    /// No more.
    End,
}

impl Script {
    /// Starts at the top.
    pub(crate) fn new(text: &str, environment: HashMap<String, String>) -> Self {
        Self { text: text.chars().collect(), at: 0, variables: HashMap::new(), environment, branches: Vec::new() }
    }

    /// Gives a variable a value.
    pub(crate) fn set(&mut self, name: String, value: String) {
        self.variables.insert(name, value);
    }

    /// The lines up to `\.`, which a COPY takes.
    pub(crate) fn data(&mut self) -> Vec<u8> {
        self.line();
        let mut data = String::new();
        while self.at < self.text.len() {
            let line = self.line();
            if line.trim_end() == "\\." {
                break;
            }
            data.push_str(&line);
            data.push('\n');
        }
        data.into_bytes()
    }

    /// Reads the next step. `plain` says how strings are read.
    pub(crate) fn next(&mut self, plain: bool) -> Step {
        loop {
            let step = self.read(plain);
            let runs = self.branches.iter().all(|(runs, _)| *runs);
            if runs || step == Step::End {
                return step;
            }
        }
    }

    fn read(&mut self, plain: bool) -> Step {
        let mut out = String::new();
        let mut nesting = Nesting::default();
        let mut escapes = false;
        while let Some(&next) = self.text.get(self.at) {
            let token = token(self.text.get(self.at..).unwrap_or_default(), escapes || !plain);
            escapes = false;
            match (next, token) {
                (';', _) if nesting.may_end() => {
                    self.at += 1;
                    return Step::Statement { text: out, end: ";".into(), argument: String::new() };
                }
                ('\\', _) if self.text.get(self.at + 1) == Some(&';') => {
                    self.at += 2;
                    out.push(';');
                    nesting = Nesting::default();
                    continue;
                }
                ('\\', _) => match self.command(&mut out) {
                    Some(step) => return step,
                    None => continue,
                },
                (':', _) => {
                    if let Some(value) = self.variable() {
                        out.push_str(&value);
                        continue;
                    }
                }
                _ => {}
            }
            let text: String = self.text.iter().skip(self.at).take(token).collect();
            self.at += token;
            nesting.take(&text, &out);
            escapes = text.eq_ignore_ascii_case("e") && self.text.get(self.at) == Some(&'\'');
            out.push_str(&text);
        }
        if out.trim().is_empty() {
            return Step::End;
        }
        Step::Statement { text: out, end: ";".into(), argument: String::new() }
    }

    /// `:name`, `:'name'` or `:"name"`; none where it is a cast, a slice, or not set.
    fn variable(&mut self) -> Option<String> {
        if self.at > 0 && self.text.get(self.at - 1) == Some(&':') {
            return None;
        }
        let mut at = self.at + 1;
        let quote = self.text.get(at).copied().filter(|next| matches!(next, '\'' | '"'));
        at += usize::from(quote.is_some());
        let name: String =
            self.text.iter().skip(at).take_while(|next| next.is_alphanumeric() || **next == '_').collect();
        at += name.chars().count();
        if quote.is_some() && self.text.get(at).copied() != quote {
            return None;
        }
        let value = self.variables.get(&name)?;
        self.at = at + usize::from(quote.is_some());
        Some(match quote {
            None => value.clone(),
            Some(mark) => format!("{mark}{}{mark}", value.replace(mark, &format!("{mark}{mark}"))),
        })
    }

    fn line(&mut self) -> String {
        let line: String = self.text.iter().skip(self.at).take_while(|next| **next != '\n').collect();
        self.at += line.chars().count() + 1;
        line
    }

    /// A command; none where the statement around it goes on.
    fn command(&mut self, out: &mut String) -> Option<Step> {
        self.at += 1;
        let name: String =
            self.text.iter().skip(self.at).take_while(|next| next.is_alphanumeric() || **next == '+').collect();
        self.at += name.chars().count();
        let rest = self.text.iter().skip(self.at).take_while(|next| **next != '\n' && **next != '\\');
        let argument: String = rest.collect();
        self.at += argument.chars().count();
        let argument = argument.trim().to_owned();
        match name.as_str() {
            "g" | "gx" | "gset" | "gexec" | "gdesc" | "crosstabview" => {
                return Some(Step::Statement { text: std::mem::take(out), end: name, argument });
            }
            "c" | "connect" => return Some(Step::Connect),
            "r" | "reset" => out.clear(),
            "quit" | "q" if self.branches.iter().all(|(runs, _)| *runs) => {
                self.at = self.text.len();
                return Some(Step::End);
            }
            "copy" => {
                let whole = self.line();
                if argument.to_lowercase().contains("from stdin") || whole.to_lowercase().contains("from stdin") {
                    self.at -= 1;
                    self.data();
                }
                return out.trim().is_empty().then_some(Step::Skipped);
            }
            "set" => self.assign(&argument),
            "getenv" => {
                if let Some((variable, from)) = argument.split_once(' ')
                    && let Some(value) = self.environment.get(from.trim()).cloned()
                {
                    self.set(variable.to_owned(), value);
                }
            }
            "if" => {
                let holds = self.holds(&argument);
                self.branches.push((holds, holds));
            }
            "elif" | "else" => {
                let holds = name == "else" || self.holds(&argument);
                if let Some((runs, ran)) = self.branches.last_mut() {
                    *runs = holds && !*ran;
                    *ran |= *runs;
                }
            }
            "endif" => drop(self.branches.pop()),
            _ => {
                return out.trim().is_empty().then_some(Step::Skipped);
            }
        }
        None
    }

    fn assign(&mut self, argument: &str) {
        let mut script = Self::new(argument, HashMap::new());
        script.variables.clone_from(&self.variables);
        let (name, rest) = argument.split_once(' ').unwrap_or((argument, ""));
        let mut value = String::new();
        for part in rest.split_whitespace() {
            match part.strip_prefix(':').and_then(|variable| self.variables.get(variable.trim_matches(['\'', '"']))) {
                Some(known) => value.push_str(known),
                None => value.push_str(part.trim_matches('\'')),
            }
        }
        self.set(name.to_owned(), value);
    }

    fn holds(&self, argument: &str) -> bool {
        let value = match argument.strip_prefix(':') {
            Some(test) if test.starts_with("{?") => {
                return self.variables.contains_key(test.trim_start_matches("{?").trim_end_matches('}'));
            }
            Some(name) => self.variables.get(name).map_or("", String::as_str),
            None => argument,
        };
        matches!(value, "t" | "true" | "on" | "1" | "yes")
    }
}

/// What keeps a semicolon from ending a statement: brackets, and the body of CREATE FUNCTION ... BEGIN ATOMIC.
#[derive(Default)]
struct Nesting {
    brackets: usize,
    bodies: usize,
    defines: bool,
}

impl Nesting {
    const fn may_end(&self) -> bool {
        self.brackets == 0 && self.bodies == 0
    }

    fn take(&mut self, token: &str, before: &str) {
        match token.to_ascii_lowercase().as_str() {
            "(" => self.brackets += 1,
            ")" => self.brackets = self.brackets.saturating_sub(1),
            "function" | "procedure" => {
                self.defines |= before.trim_start().get(..6).is_some_and(|start| start.eq_ignore_ascii_case("create"));
            }
            "begin" | "case" if self.defines => self.bodies += 1,
            "end" if self.defines => self.bodies = self.bodies.saturating_sub(1),
            _ => {}
        }
    }
}

/// How many characters the first token has: a string, a comment, a word, or one character.
fn token(text: &[char], escapes: bool) -> usize {
    let at = |index: usize| text.get(index).copied();
    let word = |next: &&char| next.is_alphanumeric() || **next == '_' || **next == '$';
    match (at(0), at(1)) {
        (Some(mark @ ('\'' | '"')), _) => {
            let mut index = 1;
            while let Some(next) = at(index) {
                index += 1;
                if next == '\\' && escapes && mark == '\'' {
                    index += 1;
                } else if next == mark {
                    if at(index) != Some(mark) {
                        break;
                    }
                    index += 1;
                }
            }
            index.min(text.len())
        }
        (Some('-'), Some('-')) => text.iter().take_while(|next| **next != '\n').count(),
        (Some('/'), Some('*')) => {
            let (mut index, mut depth) = (2, 1);
            while depth > 0 && index < text.len() {
                match (at(index), at(index + 1)) {
                    (Some('/'), Some('*')) => (depth, index) = (depth + 1, index + 2),
                    (Some('*'), Some('/')) => (depth, index) = (depth - 1, index + 2),
                    _ => index += 1,
                }
            }
            index
        }
        (Some('$'), Some(after)) if after == '$' || after.is_alphabetic() || after == '_' => {
            let name = text.iter().skip(1).take_while(|next| next.is_alphanumeric() || **next == '_').count();
            let tag = text.get(..name + 2).filter(|tag| tag.last() == Some(&'$'));
            let Some(tag) = tag else { return 1 };
            let body = text.get(tag.len()..).unwrap_or_default();
            let end = body.windows(tag.len()).position(|window| window == tag);
            end.map_or(text.len(), |end| end + 2 * tag.len())
        }
        (Some(first), _) if first.is_alphanumeric() || first == '_' => text.iter().take_while(word).count(),
        _ => 1,
    }
}
