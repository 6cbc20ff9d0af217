//! Attempts of an agent to read what it may not, or to change what it may not: `testdata/attacks.txt` against a real
//! server, through the whole driver, with a policy that permits only what an attack is given.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Answer, ScriptedGate};
use crate::mask::Rules;
use crate::policy::{ActionName, Command};
use crate::protocol::postgres::codec::{Backend, ProtocolVersion, Side, backend_limit, frame, write};
use crate::testing::postgres::{Options, Postgres as Server};
use crate::testing::proxy::serve;

const ATTACKS: &str = include_str!("../../testdata/attacks.txt");
const SETUP: &str = include_str!("../../testdata/attacks.sql");
/// Apart from what honest tools are tried on: whatever touches such a table is opaque, so that it cannot be dumped;
/// somebody to whom row policies apply; a view and a policy that filter by what is masked as a setting says.
const EAGER: &str = "CREATE DOMAIN greedy AS int DEFAULT touch(); CREATE TABLE eager (id int, g greedy); \
     CREATE ROLE lowly; GRANT SELECT ON people TO lowly; \
     CREATE VIEW guess AS SELECT id FROM people WHERE email LIKE current_setting('my.guess', true); \
     CREATE TABLE guarded AS SELECT id, email AS masked FROM people; GRANT SELECT ON guarded TO lowly; \
     CREATE POLICY p ON guarded USING (masked LIKE current_setting('my.guess', true)); \
     ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; \
     CREATE VIEW guards AS SELECT id FROM guarded; ALTER VIEW guards OWNER TO lowly; GRANT SELECT ON guess TO lowly; \
     CREATE TABLE ajar (id int); CREATE TABLE moot (id int); CREATE TABLE wide (id int); \
     INSERT INTO ajar VALUES (1); INSERT INTO moot VALUES (1); INSERT INTO wide VALUES (1); \
     CREATE POLICY p ON ajar USING (id IN (SELECT id FROM guarded)); \
     CREATE POLICY p ON moot USING (EXISTS (SELECT 1 FROM guess)); \
     CREATE POLICY p ON wide USING (EXISTS (SELECT 1 FROM people o WHERE o.id = wide.id \
       AND o::text LIKE '%' || current_setting('my.guess', true))); \
     ALTER TABLE ajar ENABLE ROW LEVEL SECURITY; ALTER TABLE moot ENABLE ROW LEVEL SECURITY; \
     ALTER TABLE wide ENABLE ROW LEVEL SECURITY; GRANT SELECT ON ajar, moot, wide TO lowly; \
     CREATE VIEW ajars AS SELECT id FROM ajar; ALTER VIEW ajars OWNER TO lowly; \
     CREATE VIEW moots AS SELECT id FROM moot; ALTER VIEW moots OWNER TO lowly; \
     CREATE VIEW wides AS SELECT id FROM wide; ALTER VIEW wides OWNER TO lowly";

/// Attacks that run at the same time, each in a database of its own.
const AT_ONCE: usize = 4;

/// Never to be seen, in any case of letters.
const SECRETS: [&str; 2] = ["treasure", "49290000"];

/// One attack, as the corpus has it.
#[derive(Debug, Default)]
struct Attack {
    name: &'static str,
    /// Permitted actions beyond `select` and `session`, without `sql:`.
    allowed: BTreeSet<&'static str>,
    lines: Vec<&'static str>,
    seen: Vec<&'static str>,
    unseen: Vec<&'static str>,
}

fn attacks() -> Vec<Attack> {
    let mut found: Vec<Attack> = Vec::new();
    for line in ATTACKS.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")) {
        if let Some(head) = line.strip_prefix("== ") {
            let (name, allowed) = head.split_once(" + ").unwrap_or((head, ""));
            let allowed = allowed.split_whitespace().chain(["select", "session"]).collect();
            found.push(Attack { name, allowed, ..Attack::default() });
        } else if let Some(attack) = found.last_mut() {
            match (line.strip_prefix("> "), line.strip_prefix("! ")) {
                (Some(seen), _) => attack.seen.push(seen),
                (_, Some(unseen)) => attack.unseen.push(unseen),
                _ => attack.lines.push(line),
            }
        }
    }
    found
}

/// The policy: what the attack is given, nothing of the schema `hidden`, and no value in clear; nor, where it is `blind`, any
/// filter by one.
fn verdict(command: &Command, allowed: &BTreeSet<&'static str>) -> Answer {
    let permitted = command.actions.iter().all(|action| {
        action.name == ActionName::SQL_CONNECT
            || (allowed.contains(action.name.as_str().trim_start_matches("sql:"))
                && action.resource.path.get(2).is_none_or(|schema| &**schema != "hidden"))
    });
    let permitted = permitted && !(allowed.contains("blind") && command.facts.filters_on_masked);
    if permitted { Answer::Permit(&["pii", "card"]) } else { Answer::Deny }
}

/// A client that sends whatever it is told.
struct Agent {
    stream: TcpStream,
    buffer: BytesMut,
    out: BytesMut,
    said: String,
}

impl Agent {
    async fn connect(port: u16, database: &str) -> Self {
        let mut agent = Self {
            stream: TcpStream::connect(("127.0.0.1", port)).await.unwrap(),
            buffer: BytesMut::new(),
            out: BytesMut::new(),
            said: String::new(),
        };
        let parameters = [(&b"user"[..], &b"agent"[..]), (b"database", database.as_bytes())];
        write::startup(&mut agent.out, ProtocolVersion::V3_0, parameters);
        agent.flush().await;
        agent.until_ready().await;
        agent.said.clear();
        agent
    }

    async fn flush(&mut self) {
        self.stream.write_all(&self.out.split()).await.unwrap();
    }

    /// `:parse name text`, `:typed name oid text`, `:bind portal statement`, `:exec portal rows`, `:close P name`,
    /// `:describe S name`, `:sync`; everything else is a simple query. `-` is the empty name.
    async fn say(&mut self, line: &str, typed: &(dyn Fn(&str) -> u32 + Sync)) {
        let unnamed = |name: &str| if name == "-" { String::new() } else { name.to_owned() };
        let side = |name: &str| if name == "S" { Side::Statement } else { Side::Portal };
        let Some(rest) = line.strip_prefix(':') else {
            write::query(&mut self.out, line.replace("\\n", "\n").as_bytes());
            self.flush().await;
            return self.until_ready().await;
        };
        let words: Vec<&str> = rest.splitn(3, ' ').collect();
        match words.as_slice() {
            ["parse", name, text] => drop(write::parse(&mut self.out, unnamed(name).as_bytes(), text.as_bytes())),
            ["typed", kind, text] => drop(write::message(&mut self.out, b'P', |out| {
                out.put_u8(0);
                out.put_slice(text.as_bytes());
                out.put_u8(0);
                out.put_u16(1);
                out.put_u32(typed(kind));
            })),
            ["value", value] => drop(write::message(&mut self.out, b'B', |out| {
                out.put_slice(&[0, 0, 0, 0, 0, 1]);
                out.put_u32(u32::try_from(value.len()).unwrap());
                out.put_slice(value.as_bytes());
                out.put_u16(0);
            })),
            ["bind", portal, statement] => {
                write::bind(&mut self.out, unnamed(portal).as_bytes(), unnamed(statement).as_bytes());
            }
            ["exec", portal, rows] => {
                write::execute(&mut self.out, unnamed(portal).as_bytes(), rows.parse().unwrap());
            }
            ["close", kind, name] => drop(write::close(&mut self.out, side(kind), unnamed(name).as_bytes())),
            ["describe", kind, name] => drop(write::describe(&mut self.out, side(kind), unnamed(name).as_bytes())),
            ["sync"] => {
                write::bare(&mut self.out, b'S');
                self.flush().await;
                self.until_ready().await;
            }
            _ => panic!("{line}"),
        }
    }

    async fn until_ready(&mut self) {
        loop {
            while let Some(found) = frame(&self.buffer, backend_limit).unwrap() {
                let (tag, length) = (found.tag, found.raw.len());
                let text = match Backend::decode(found).unwrap() {
                    Backend::DataRow(values) => {
                        let cells = values.map(|cell| cell.map_or("NULL".into(), String::from_utf8_lossy));
                        cells.collect::<Vec<_>>().join("|")
                    }
                    Backend::CopyData(data) => String::from_utf8_lossy(data).into_owned(),
                    Backend::ErrorResponse(notice) | Backend::NoticeResponse(notice) => {
                        let fields = notice.fields().map(|(_, text)| String::from_utf8_lossy(text));
                        format!("{}: {}", char::from(tag), fields.collect::<Vec<_>>().join(" "))
                    }
                    Backend::ParameterStatus(_, value) => String::from_utf8_lossy(value).into_owned(),
                    Backend::NotificationResponse { payload, .. } => String::from_utf8_lossy(payload).into_owned(),
                    _ => String::new(),
                };
                if !text.is_empty() {
                    self.said.push_str(&text);
                    self.said.push('\n');
                }
                let _consumed = self.buffer.split_to(length);
                if tag == b'Z' {
                    return;
                }
            }
            let read = timeout(Duration::from_secs(5), self.stream.read_buf(&mut self.buffer)).await;
            match read {
                Ok(Ok(read)) if read > 0 => {}
                ended => {
                    self.said.push_str(if ended.is_ok() { "closed\n" } else { "no answer in time\n" });
                    return;
                }
            }
        }
    }
}

/// What came of an attack, and what is wrong with that.
async fn run(server: &Server, attack: &Attack, rules: &Arc<Rules>, number: usize) -> Option<String> {
    let database = format!("attack{number}");
    server.sql(&format!("CREATE DATABASE {database} TEMPLATE victim")).unwrap();
    let allowed = attack.allowed.clone();
    let gate = Arc::new(ScriptedGate::new(move |command| verdict(command, &allowed)));
    let port = serve(server.port(), &format!("a{}", server.port()), Arc::clone(rules), gate).await.unwrap();
    let mut agents = [Agent::connect(port, &database).await, Agent::connect(port, &database).await];
    let typed = |name: &str| {
        let oid = server.sql_in(&database, &format!("SELECT '{name}'::regtype::oid")).unwrap();
        oid.parse().unwrap()
    };
    for line in &attack.lines {
        match (line.strip_prefix("2| "), line.strip_prefix("2& ")) {
            (Some(line), _) => agents[1].say(line, &typed).await,
            (_, Some("ready")) => agents[1].until_ready().await,
            (_, Some(line)) => {
                write::query(&mut agents[1].out, line.as_bytes());
                agents[1].flush().await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            _ => agents[0].say(line, &typed).await,
        }
    }
    let said = agents.map(|agent| agent.said).concat();
    let state = server.sql_in(&database, STATE).unwrap();
    let lower = said.to_lowercase();
    let mut wrong: Vec<String> =
        SECRETS.iter().filter(|secret| lower.contains(**secret)).map(|secret| format!("shows {secret}")).collect();
    wrong.extend(attack.seen.iter().filter(|text| !said.contains(**text)).map(|text| format!("does not show {text}")));
    wrong.extend(attack.unseen.iter().filter(|text| said.contains(**text)).map(|text| format!("shows {text}")));
    let writes = attack.allowed.len() > 2;
    if if writes { !state.starts_with("0|") } else { state != "0|2|1|0|0" } {
        wrong.push(format!("changed the database: {state}"));
    }
    (!wrong.is_empty()).then(|| format!("== {}\n{}\n{said}", attack.name, wrong.join(", ")))
}

/// What no attack may change: whether forbidden code ran, and how much there is.
const STATE: &str = "SELECT (SELECT count(*) FROM witness), (SELECT count(*) FROM people), \
    (SELECT count(*) FROM hidden.vault), (SELECT count(*) FROM pg_largeobject_metadata), \
    (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM counter)";

fn rules() -> Rules {
    let config = r#"
        [[mask]]
        tag = "pii"
        columns = ["public.people.email", "public.logs.email", "public.booked.email", "*.masked"]
        transform = "redact"
        [[mask]]
        tag = "card"
        columns = ["public.people.card"]
        transform = { keep_last = 4 }
    "#;
    crate::testing::masks::rules(config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_attack_of_the_corpus_succeeds() {
    let settings = vec![("max_prepared_transactions".to_owned(), "5".to_owned())];
    let server = Server::start(Options { auth: "trust", settings, ..Options::default() }).unwrap();
    server.sql("CREATE DATABASE victim").unwrap();
    server.sql_in("victim", SETUP).unwrap();
    server.sql_in("victim", EAGER).unwrap();
    let (server, rules, places) = (Arc::new(server), Arc::new(rules()), Arc::new(Semaphore::new(AT_ONCE)));
    let mut running = JoinSet::new();
    for (number, attack) in attacks().into_iter().enumerate() {
        let (server, rules, places) = (Arc::clone(&server), Arc::clone(&rules), Arc::clone(&places));
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            run(&server, &attack, &rules, number).await
        });
    }
    let results = running.join_all().await;
    let cases = results.len();
    let wrong: Vec<String> = results.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases > 0);
}
