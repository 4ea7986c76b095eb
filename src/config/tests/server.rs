//! `[server]` and `[store]`.

use super::*;

#[test]
fn server_keys_are_read() {
    let config = good(&format!(
        "{PLAIN}\n[server]\nlisten = ['127.0.0.1:1', 'unix:/run/p.sock']\nadmin = 'off'\n\
         workers = 4\nmax_connections = 7\nheader_timeout = '1s'\nidle_timeout = '2s'\n\
         shutdown_delay = '0s'\nshutdown_grace = '3s'\nallow_hosts = ['Api.Local:80']\n\
         allow_origins = ['https://App.example']\nvia = false\n\
         client_auth = {{ header = 'X-Key', value = 'k' }}"
    ));
    let server = config.server;
    assert_eq!(server.listen.len(), 2);
    assert_eq!(server.admin, None);
    assert_eq!((server.workers, server.max_connections), (4, 7));
    assert_eq!(server.shutdown_delay, Duration::ZERO);
    assert_eq!(server.allow_hosts, ["api.local:80"]);
    assert_eq!(server.allow_origins, ["https://app.example"]);
    assert!(!server.via);
    assert!(matches!(server.client_auth, Some(ClientAuth::Header { name, .. }) if name == "x-key"));
}

#[test]
fn auto_workers_use_the_available_parallelism() {
    let config = good(&format!("{PLAIN}\n[server]\nworkers = 'auto'"));
    let usable = std::thread::available_parallelism().unwrap().get();
    assert_eq!(config.server.workers, usable);
}

#[test]
fn invalid_server_keys_are_refused() {
    for (lines, problem) in [
        (
            "listen = '0.0.0.0:8080'",
            "server.listen: any process that can connect",
        ),
        (
            "listen = ['127.0.0.1:1', '10.0.0.1:1']",
            "server.listen: any process that can connect",
        ),
        ("listen = []", "server.listen: is an empty list"),
        (
            "listen = ['127.0.0.1:1', '127.0.0.1:1']",
            "server.listen: is also the address of `server.listen`",
        ),
        ("listen = 8080", "server.listen: expected an address"),
        (
            "listen = ['127.0.0.1:1', 'x']",
            "server.listen[1]: expected an address",
        ),
        (
            "listen = '127.0.0.1:9180'",
            "server.listen: is also the address of `server.admin`",
        ),
        (
            "admin = '0.0.0.0:9180'",
            "server.admin: any process that can connect",
        ),
        (
            "admin = 'on'",
            "server.admin: expected an address such as \"127.0.0.1:9180\", or \"off\"",
        ),
        (
            "workers = 0",
            "server.workers: expected an integer, 1 or greater, or \"auto\"",
        ),
        (
            "workers = '1'",
            "server.workers: expected an integer, 1 or greater, or \"auto\"",
        ),
        (
            "max_connections = -1",
            "server.max_connections: expected an integer, 1",
        ),
        (
            "header_timeout = '0s'",
            "server.header_timeout: must be longer than 0",
        ),
        (
            "idle_timeout = 5",
            "server.idle_timeout: expected a duration",
        ),
        (
            "shutdown_grace = '5'",
            "server.shutdown_grace: expected a duration",
        ),
        (
            "allow_hosts = ['a/b']",
            "server.allow_hosts[0]: expected a host",
        ),
        ("allow_hosts = 'a'", "server.allow_hosts: expected a list"),
        (
            "allow_origins = ['a']",
            "server.allow_origins[0]: expected an origin",
        ),
        ("via = 'yes'", "server.via: expected true or false"),
        ("client_auth = {}", "server.client_auth: needs either"),
        (
            "client_auth = { header = 'X-K' }",
            "server.client_auth: needs either",
        ),
        (
            "client_auth = { header = 'X K', value = 'v' }",
            "server.client_auth.header: expected the name of a header",
        ),
        (
            "client_auth = { header = 'X-K', value = '' }",
            "server.client_auth.value: is empty",
        ),
        (
            "client_auth = { peer_uid = [] }",
            "server.client_auth.peer_uid: names no user",
        ),
        (
            "client_auth = { peer_uid = [-1] }",
            "server.client_auth.peer_uid[0]: expected an integer, 0",
        ),
        (
            "client_auth = { peer_uid = [1000] }",
            "server.listen: server.client_auth.peer_uid can only",
        ),
    ] {
        bad(&format!("{PLAIN}\n[server]\n{lines}"), &[problem]);
    }
}

#[test]
fn remote_listeners_need_permission_and_peer_uids_need_sockets() {
    good(&format!(
        "{PLAIN}\n[server]\nlisten = '0.0.0.0:8080'\nadmin = '[::]:9180'\nallow_remote = true"
    ));
    let config = good(&format!(
        "{PLAIN}\n[server]\nlisten = 'unix:/p'\nclient_auth = {{ peer_uid = [0, 1000] }}"
    ));
    assert_eq!(
        config.server.client_auth,
        Some(ClientAuth::PeerUid(vec![0, 1000]))
    );
    // `listen` may be empty if each upstream has a listener.
    let own = with_upstream("route = { listen = '127.0.0.1:9000' }\n[server]\nlisten = []");
    assert_eq!(good(&own).server.listen, []);
}

#[test]
fn store_keys_fit_the_kind_of_store() {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let config = good(&format!(
        "{PLAIN}\n[store]\nkind = 'file'\npath = '/var/lib/c'\n\
         key = ['{key}', {{ command = ['k'] }}]"
    ));
    assert_eq!(
        config.store.kind,
        StoreKind::File {
            path: "/var/lib/c".into()
        }
    );
    assert_eq!(config.store.keys.len(), 2);
    for (lines, problems) in [
        ("kind = 'file'", &["store.path: is missing"][..]),
        (
            "kind = 'disk'",
            &["store.kind: is not a known value (one of `memory`, `file`, `redis`)"],
        ),
        (
            "kind = 'redis'\nurl = 'redis://h'",
            &["store.kind: `redis` is not supported yet"],
        ),
        (
            "path = '/x'",
            &["store.path: has an effect only with kind = \"file\""],
        ),
        (
            "url = 'x'",
            &["store.url: has an effect only with kind = \"redis\""],
        ),
        (
            "kind = 'file'\npath = 5",
            &["store.path: expected the path"],
        ),
        ("key = []", &["store.key: is an empty list"]),
        ("key = 'short'", &["store.key: is not 32 bytes in base64"]),
        ("key = ''", &["store.key: is empty"]),
        (
            "key = ['short', { env = 'NO' }]",
            &[
                "store.key[0]: is not 32 bytes",
                "store.key[1]: environment variable `NO` is not set",
            ],
        ),
    ] {
        bad(&format!("{PLAIN}\n[store]\n{lines}"), problems);
    }
}
