//! Processes outside that do the agent's bidding, by ways that are not the network.

use interceptor::testing::world::Place;

use super::row::{Level, Row};

pub(crate) fn rows() -> Vec<Row> {
    const SIGHT: &str = "a mount and a network namespace of the agent's own; lsm unix_stream_connect, unix_may_send";
    const OTHERS: &str = "a mount namespace of the agent's own, a user id of its own";
    vec![
        Row::python("a relay outside, at an abstract socket", "return ask('\\0relay')")
            .helper(Place::Outside, "relay('\\0relay')")
            .open(Level::Launched, SIGHT),
        Row::python("a relay outside, at a socket in the file system", "return ask(DIR + '/open/relay')")
            .helper(Place::Outside, "relay(DIR + '/open/relay')")
            .open(Level::Launched, SIGHT),
        Row::python(
            "a relay outside, through pipes in the file system",
            "open(DIR + '/open/there', 'w').write('q')\nreturn json.load(open(DIR + '/open/back'))",
        )
        .helper(Place::Outside, PIPES)
        .open(Level::Launched, OTHERS),
        Row::untried(
            "docker.sock, D-Bus and `systemd-run --user`, ssh-agent",
            "no such daemons here; as the relays above",
            SIGHT,
        ),
        Row::untried("cron and at", "no such daemons here", OTHERS),
        Row::untried(
            "request_key(2): a helper of the kernel's asks the resolver",
            "it would act in the host's own namespaces",
            "seccomp",
        ),
        Row::untried(
            "network file systems: autofs, NFS, sshfs",
            "no such mounts here",
            "a mount namespace of the agent's own",
        ),
    ]
}

const PIPES: &str = "
for name in ('/open/there', '/open/back'):
    os.mkfifo(DIR + name)
    os.chmod(DIR + name, 0o666)
out('ready')
open(DIR + '/open/there').read()
answer = talk(FAR4)
open(DIR + '/open/back', 'w').write(json.dumps(answer))";
