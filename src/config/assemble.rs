//! Assembles the sections and checks rules that span sections.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use toml::Value;

use super::chain;
use super::context::Context;
use super::dialects::Dialects;
use super::environment::Environment;
use super::file::{SECTIONS, ServerToml, StoreToml, UpstreamToml};
use super::identity::{is_credential, source};
use super::model::{Config, Endpoint, Provider, Route, StoreKind, TokenSource, Upstream};
use super::problems::{KeyPath, Problem, complaint, did_you_mean};
use super::provider::{Checked, provider};
use super::read::{self, Tree, section};
use super::routes::{Listeners, Routes};
use super::server::{Exposure, check_listen, server, store};
use super::upstream::{Providers, upstream};

pub(super) fn config(text: &str, env: &dyn Environment) -> Result<Config, Vec<Problem>> {
    let mut root = read::parse(text)?;
    let mut cx = Context::new(env);
    let mut listeners = Listeners::default();
    refuse_unknown(&root, &mut cx);
    let at = KeyPath::root();

    let server_toml: ServerToml = take_section(&mut root, "server", &mut cx);
    let (server, exposure) = server(server_toml, &at.key("server"), &mut listeners, &mut cx);
    let store_at = at.key("store");
    let store_toml: StoreToml = take_section(&mut root, "store", &mut cx);
    let store = store(store_toml, &store_at, &mut cx);
    // An invalid store has its own problem; do not also report it as not durable.
    let durable = store.kind != StoreKind::Memory || cx.problems.has_any_in(&store_at);

    let dialects = take_tables(&mut root, "dialects", &mut cx);
    let dialects = Dialects::read(dialects, &at.key("dialects"), &mut cx);
    let providers = take_tables(&mut root, "providers", &mut cx);
    let names: BTreeSet<_> = providers.iter().map(|(name, _)| name.clone()).collect();
    let good = check_providers(providers, &names, &dialects, durable, &mut cx);

    let upstreams = take_tables(&mut root, "upstreams", &mut cx);
    let providers = Providers {
        names: &names,
        good: &good,
    };
    let (routes, upstreams) = check_upstreams(upstreams, &providers, &mut cx);
    check_routes(&routes, &exposure, &mut listeners, &mut cx);
    if server.listen.is_empty() && !has_own_listeners(&routes) {
        let hint = "it can be empty only if every upstream has its own listener";
        let listen = at.key("server").key("listen");
        cx.problem(&listen, complaint("is an empty list").hint(hint));
    }
    warn_unused(&good, &upstreams, &mut cx);

    if !cx.problems.is_empty() {
        return Err(cx.problems.into_sorted());
    }
    Ok(Config {
        server,
        store,
        providers: good.into_values().collect(),
        upstreams: upstreams.into_iter().map(Arc::new).collect(),
        warnings: cx.warnings.into_sorted(),
    })
}

fn refuse_unknown(root: &Tree, cx: &mut Context<'_>) {
    let known = || format!("known keys: {}", SECTIONS.join(", "));
    let names = root.0.as_table().into_iter().flat_map(|table| table.keys());
    for name in names.filter(|name| !SECTIONS.contains(&name.as_str())) {
        let unknown = complaint("unknown key").hint(did_you_mean(name, SECTIONS, known));
        cx.problems.add_unread(&KeyPath::root().key(name), unknown);
    }
}

fn take(root: &mut Tree, name: &str) -> Option<Tree> {
    root.0.as_table_mut()?.remove(name).map(Tree)
}

fn take_section<T: DeserializeOwned + Default>(
    root: &mut Tree,
    name: &str,
    cx: &mut Context<'_>,
) -> T {
    let tree = take(root, name);
    tree.and_then(|mut tree| section(&mut tree, &KeyPath::root().key(name), &mut cx.problems))
        .unwrap_or_default()
}

/// Takes the tables of `[name.*]`, sorted by name.
fn take_tables(root: &mut Tree, name: &str, cx: &mut Context<'_>) -> Vec<(String, Tree)> {
    let at = KeyPath::root().key(name);
    let Some(mut tree) = take(root, name) else {
        return Vec::new();
    };
    let Value::Table(tables) = &mut tree.0 else {
        let hint = format!("write each entry as a table with a name: [{name}.NAME]");
        let expected = complaint("expected a table").hint(hint);
        cx.problems.add_unread(&at, expected);
        return Vec::new();
    };
    let tables = std::mem::take(tables).into_iter();
    let mut named: Vec<_> = tables.map(|(name, value)| (name, Tree(value))).collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, _) in &named {
        check_name(name, &at, cx);
    }
    named
}

/// Restricts names: metric labels, admin paths and environment variables hold them.
fn check_name(name: &str, at: &KeyPath, cx: &mut Context<'_>) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        let wrong = complaint("a name is 1 to 64 letters, digits, `-` or `_`");
        let hint = "choose a short name: metrics and log lines show it";
        cx.problem(&at.key(name), wrong.hint(hint));
    }
}

/// Returns the valid providers by name.
fn check_providers(
    tables: Vec<(String, Tree)>,
    names: &BTreeSet<String>,
    dialects: &Dialects,
    durable_store: bool,
    cx: &mut Context<'_>,
) -> BTreeMap<String, Arc<Provider>> {
    let at = KeyPath::root().key("providers");
    let mut checked = Vec::with_capacity(tables.len());
    for (name, tree) in tables {
        let at = at.key(&name);
        checked.extend(provider(&name, tree, &at, dialects, durable_store, cx));
    }
    chain::link(&mut checked, names, &at, cx);
    check_shared(&checked, &at, cx);
    dialects.check(&KeyPath::root().key("dialects"), cx);
    checked
        .into_iter()
        .map(|checked| (checked.provider.name.clone(), Arc::new(checked.provider)))
        .collect()
}

/// Returns the readable routes by upstream, and the valid upstreams.
fn check_upstreams(
    tables: Vec<(String, Tree)>,
    providers: &Providers<'_>,
    cx: &mut Context<'_>,
) -> (Vec<(String, Route)>, Vec<Upstream>) {
    let at = KeyPath::root().key("upstreams");
    let mut routes = Vec::with_capacity(tables.len());
    let mut upstreams = Vec::with_capacity(tables.len());
    for (name, mut tree) in tables {
        let at = at.key(&name);
        if let Some(toml) = section::<UpstreamToml>(&mut tree, &at, &mut cx.problems) {
            let (route, upstream) = upstream(&name, toml, &at, providers, cx);
            routes.extend(route.map(|route| (name, route)));
            upstreams.extend(upstream);
        }
    }
    (routes, upstreams)
}

fn check_routes(
    written: &[(String, Route)],
    exposure: &Exposure,
    listeners: &mut Listeners,
    cx: &mut Context<'_>,
) {
    let all = KeyPath::root().key("upstreams");
    let mut routes = Routes::default();
    for (upstream, route) in written {
        let at = all.key(upstream).key("route");
        // An unreadable route is not a catch-all.
        if cx.problems.has_unread(&at) {
            continue;
        }
        routes.add(upstream, route, &at, &mut cx.problems);
        if let Route::Listen(listen) = route {
            check_listen(listen, &at.key("listen"), exposure, listeners, cx);
        }
    }
}

fn has_own_listeners(routes: &[(String, Route)]) -> bool {
    let own = |(_, route): &(String, Route)| matches!(route, Route::Listen(_));
    !routes.is_empty() && routes.iter().all(own)
}

/// Providers of one identity share a refresher, which sends only one kind of request.
fn check_shared(checked: &[Checked], at: &KeyPath, cx: &mut Context<'_>) {
    let mut first_of: HashMap<&str, (&Checked, &Endpoint)> = HashMap::new();
    for checked in checked {
        let TokenSource::Endpoint(endpoint) = &checked.provider.source else {
            continue;
        };
        let Some(&(first, other)) = first_of.get(endpoint.identity.as_str()) else {
            first_of.insert(&endpoint.identity, (checked, endpoint));
            continue;
        };
        let (provider, first_provider) = (&checked.provider, &first.provider);
        let at = at.key(&provider.name);
        let same = format!("fetches the same token as `{}`", first_provider.name);
        if checked.request != first.request {
            let what = "dialect, auth_method, request or response";
            let differs = complaint(format!("{same}, but with another {what}"));
            let hint = "make them equal, or let both upstreams name one provider";
            cx.problem(&at, differs.hint(hint));
        } else if let Some(what) = differing((provider, endpoint), (first_provider, other)) {
            let differs = complaint(format!("{same}, but with another {what}"));
            let hint = "let both upstreams name one provider; if the variable selects another \
                        token, list it in `identity` of the dialect";
            cx.problem(&at, differs.hint(hint));
        } else if provider.variables != first_provider.variables
            || provider.life != first_provider.life
            || endpoint.timeout != other.timeout
        {
            let ignored = "whose variables and life-cycle keys apply to both";
            cx.warnings
                .add(&at, complaint(format!("{same}, {ignored}")));
        }
    }
}

/// Finds a difference in the subject or in the receiver of secrets. The order of names must not
/// decide which of two providers wins.
fn differing<'a>(
    (provider, endpoint): (&'a Provider, &Endpoint),
    (first, other): (&'a Provider, &Endpoint),
) -> Option<&'a str> {
    let credentials = |of: &'a Provider| {
        (of.variables.iter())
            .filter(|(name, _)| is_credential(name, &endpoint.plan))
            .filter(|(name, _)| !endpoint.plan.one_time.contains(name))
            .map(|(name, value)| (name.as_str(), source(value)))
            .collect::<BTreeMap<_, _>>()
    };
    let (ours, theirs) = (credentials(provider), credentials(first));
    let mut names = ours.keys().chain(theirs.keys()).copied();
    let name = names.find(|name| ours.get(name) != theirs.get(name));
    let keys = [
        ("`tls`", endpoint.tls == other.tls),
        ("`proxy`", endpoint.egress == other.egress),
        ("`issuer`", endpoint.issuer == other.issuer),
        ("`allow_http`", endpoint.allow_http == other.allow_http),
    ];
    name.or_else(|| keys.iter().find(|(_, equal)| !equal).map(|(key, _)| *key))
}

fn warn_unused(
    providers: &BTreeMap<String, Arc<Provider>>,
    upstreams: &[Upstream],
    cx: &mut Context<'_>,
) {
    if upstreams.is_empty() {
        let message = complaint("there is none, so every request fails with `no_route`");
        cx.warnings.add(&KeyPath::root().key("upstreams"), message);
        return;
    }
    let named = upstreams.iter().map(|upstream| upstream.provider.clone());
    let chained = providers
        .values()
        .flat_map(|provider| provider.chained_providers());
    let used: BTreeSet<_> = named.chain(chained).collect();
    for name in providers.keys().filter(|name| !used.contains(*name)) {
        let message = complaint("no upstream uses it; its token is fetched nevertheless");
        let at = KeyPath::root().key("providers").key(name);
        cx.warnings.add(&at, message);
    }
}
