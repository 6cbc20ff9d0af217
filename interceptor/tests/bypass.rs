//! Every way round the capture that we know, tried: a table of attempts, each with what it must come to, what closes it
//! and the event that names it. The table is the document `docs/bypass.md`.
//!
//! Needs root, and says so by failing. An attempt counts only where the same program has an effect in a world without
//! capture (the control). What is open is a row as well, and fails once it is closed, so that the table stays true.
#![cfg(test)]

#[path = "bypass/daemon.rs"]
mod daemon;
#[path = "bypass/descriptors.rs"]
mod descriptors;
#[path = "bypass/families.rs"]
mod families;
#[path = "bypass/inbound.rs"]
mod inbound;
#[path = "bypass/local.rs"]
mod local;
#[path = "bypass/multicast.rs"]
mod multicast;
#[path = "bypass/namespaces.rs"]
mod namespaces;
#[path = "bypass/options.rs"]
mod options;
#[path = "bypass/processes.rs"]
mod processes;
#[path = "bypass/report.rs"]
mod report;
#[path = "bypass/row.rs"]
mod row;
#[path = "bypass/run.rs"]
mod run;
#[path = "bypass/stage.rs"]
mod stage;
#[path = "bypass/tampering.rs"]
mod tampering;
#[path = "bypass/tcp.rs"]
mod tcp;
#[path = "bypass/udp.rs"]
mod udp;
#[path = "bypass/unattended.rs"]
mod unattended;

mod tests {
    use super::report;
    use super::row::{By, Level, Row, Site};
    use super::run::{self, Line};
    use super::stage::{Stage, attempt};
    use super::{
        descriptors, families, inbound, local, multicast, namespaces, options, processes, tampering, tcp, udp,
        unattended,
    };

    /// Path of the document, which is then written.
    const DOCUMENT: &str = "INTERCEPTOR_BYPASS_DOC";
    /// Path of a file that gets what came of each row, for the document of another kernel.
    const RESULTS: &str = "INTERCEPTOR_BYPASS_RESULTS";
    /// Parts of rows' names, with `|` between them: only such rows run.
    const ONLY: &str = "INTERCEPTOR_BYPASS_ONLY";

    fn table() -> Vec<(&'static str, Vec<Row>)> {
        vec![
            ("TCP", tcp::rows()),
            ("UDP", udp::rows()),
            ("Socket options and headers", options::rows()),
            ("Multicast", multicast::rows()),
            ("Other kinds of sockets", families::rows()),
            ("What comes in", inbound::rows()),
            ("Descriptors", descriptors::rows()),
            ("Local sockets and helpers", local::rows()),
            ("Namespaces and cgroups", namespaces::rows()),
            ("Processes", processes::rows()),
            ("The daemon itself", tampering::rows()),
            ("While no daemon runs", unattended::rows()),
        ]
    }

    #[test]
    fn nobody_gets_around() {
        let only = std::env::var(ONLY).unwrap_or_default();
        let mut table = table();
        let wanted = |row: &Row| only.split('|').any(|part| row.name.contains(part));
        table.iter_mut().for_each(|(_, rows)| rows.retain(wanted));
        let names: Vec<_> = table.iter().flat_map(|(_, rows)| rows.iter().map(|row| (row.name, row.by))).collect();
        assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1), "a name twice");
        let lines: Vec<(&str, Vec<Line>)> = run::all(table);
        println!("{}", report::table(&lines));
        if let Some(path) = std::env::var_os(RESULTS) {
            std::fs::write(path, report::results(&lines)).unwrap();
        }
        let wrong: Vec<_> = lines.iter().flat_map(|(_, lines)| lines.iter().flat_map(|line| &line.faults)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        if let Some(path) = std::env::var_os(DOCUMENT) {
            assert_eq!(only, "", "a document of some rows only");
            std::fs::write(path, report::document(&lines)).unwrap();
        }
        // Where these run by themselves, as in a guest, it is not there.
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bypass.md");
        if let Some(document) = std::fs::read_to_string(document).ok().filter(|_| only.is_empty()) {
            assert_eq!(
                report::unnamed(&lines, &document),
                Vec::<String>::new(),
                "not in the document: write it with {DOCUMENT}"
            );
        }
    }

    /// The hooks of security modules must leave what leads nowhere: interfaces that are there, and those of the host's root.
    #[test]
    fn interfaces_that_lead_nowhere_are_made() {
        const OWN: &str = "unshare(0x50000000)
map_ids()
for words in ('link set lo up', 'addr add 127.0.0.5/8 dev lo'): subprocess.run(['ip', *words.split()], check=True)
shown = subprocess.run(['ip', 'addr', 'show'], stdout=subprocess.PIPE).stdout
return 'done' if b'127.0.0.5' in shown else shown.decode()";
        const ROOTS: &str =
            "subprocess.run(['ip', 'link', 'add', 'one', 'type', 'veth', 'peer', 'name', 'two'], check=True)
return 'done'";
        let stage = Stage::governed(Site::Four);
        for (by, body) in [(By::User, OWN), (By::Root, ROOTS)] {
            let value = stage.start_agent(Level::Adopted, "one", by, attempt(by, body)).value();
            assert_eq!(value["ok"], "done", "{value}");
        }
    }

    /// The fence must not keep the last packets of connections within a cgroup: their sockets would stay for minutes.
    #[test]
    fn connections_of_its_own_end() {
        for level in [Level::Adopted, Level::Launched] {
            let stage = Stage::governed(Site::Four);
            let program = attempt(By::User, include_str!("bypass/endings.py"));
            let value = stage.start_agent(level, "one", By::User, program).value();
            let states: std::collections::BTreeMap<String, u64> = serde_json::from_value(value["ok"].clone()).unwrap();
            assert!(states.keys().eq(["LISTEN", "TIME_WAIT"]) && states["LISTEN"] == 1, "{level:?}: {value}");
            // A second later the kernel gives such a port to the next connection.
            assert!((30..=40).contains(&states["TIME_WAIT"]), "{level:?}: {value}");
        }
    }
}
