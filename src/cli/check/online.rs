//! Fetches a token with the proxy's exchange but without its store, so that nothing is kept.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::without_query;
use crate::cli::words;
use crate::clock::{Clock, Now};
use crate::config::{Endpoint, LifeCycle, Provider, TokenSource};
use crate::dialect::{Expiry, Frozen, Variables};
use crate::provider::chain::{self, Tokens};
use crate::provider::discovery::discover;
use crate::provider::exchange::{self, Fetch as _, FetchError, Fetched, HttpFetch, frozen};
use crate::provider::{inputs, static_token};
use crate::secret::Secret;
use crate::token::schedule::{Life, Schedule};
use crate::upstream::tls::TlsProfiles;

/// Report lines as (label, text). Hold no secret.
type Lines = Vec<(&'static str, String)>;

/// Fetches one token. The caller may only use it to buy other tokens.
pub(super) async fn fetch(provider: &Provider, tokens: &Tokens) -> (Lines, Result<Secret, String>) {
    let mut lines = Vec::new();
    let outcome = match try_fetch(provider, tokens, &mut lines).await {
        Ok(fetched) => {
            describe(provider, &fetched, &mut lines).map(|()| fetched.issued.access_token)
        }
        Err(error) => Err(error.to_string()),
    };
    (lines, outcome)
}

async fn try_fetch(
    provider: &Provider,
    tokens: &Tokens,
    lines: &mut Lines,
) -> Result<Fetched, FetchError> {
    let clock = Clock::System;
    match &provider.source {
        TokenSource::Static { access_token } => {
            static_token::read(&provider.name, access_token, clock.now()).await
        }
        TokenSource::SelfSigned(plan) => {
            let variables = inputs::resolve(&provider.name, &provider.variables).await?;
            let sent = clock.now();
            let issued = plan.make(&variables, &frozen(sent, String::new()));
            let issued = issued.map_err(FetchError::Request)?;
            Ok(Fetched { issued, sent })
        }
        TokenSource::Endpoint(endpoint) => {
            let mut variables = inputs::resolve(&provider.name, &provider.variables).await?;
            chain::fill(provider, tokens, clock.now(), &mut variables)?;
            let fetcher = HttpFetch::new(TlsProfiles::new(), clock.clone());
            let found = match &endpoint.issuer {
                Some(issuer) => Some(discover(endpoint, issuer, &fetcher, &clock).await?),
                None => None,
            };
            let endpoint = found.as_ref().unwrap_or(endpoint);
            lines.push(("request", redacted(endpoint, &variables, clock.now())?));
            let deadline = Instant::now() + endpoint.timeout;
            let line = fetcher.dial(endpoint, deadline).await?;
            let sent = clock.now();
            let frozen = frozen(sent, endpoint.address());
            let asked = exchange::prepare(endpoint, &endpoint.plan.request, &variables, &frozen)?;
            let answered = line.ask(endpoint, asked.request, deadline).await?;
            let answer = answered.answer(clock.now());
            let secrets: Vec<_> = asked.secrets.iter().collect();
            let rules = &endpoint.plan.response;
            match rules.read(answer, &secrets) {
                Ok(issued) => Ok(Fetched { issued, sent }),
                Err(refusal) => {
                    lines.push(("answer", rules.explain(answer, &secrets).join("\n")));
                    Err(FetchError::Refused {
                        host: endpoint.token_url.authority.clone(),
                        refusal,
                    })
                }
            }
        }
    }
}

fn redacted(endpoint: &Endpoint, variables: &Variables, now: Now) -> Result<String, FetchError> {
    // Placeholders: the request that is sent has its own values.
    let frozen = Frozen {
        nonce: "NONCE".to_owned(),
        uuid: "UUID".to_owned(),
        ..frozen(now, endpoint.address())
    };
    let request = endpoint.plan.request.redacted(variables, &frozen);
    let request = request.map_err(FetchError::Request)?;
    Ok(format!(
        "to {}{}\n{}",
        endpoint.token_url.authority,
        without_query(&endpoint.path_and_query),
        request.trim_end()
    ))
}

fn describe(provider: &Provider, fetched: &Fetched, lines: &mut Lines) -> Result<(), String> {
    let issued = &fetched.issued;
    let mut answer = format!(
        "access token of {} characters; {}",
        issued.access_token.expose().len(),
        expiry(issued.expiry)
    );
    if issued.refresh_token.is_some() {
        answer.push_str("; a refresh token");
    }
    lines.push(("answer", answer));
    lines.extend(issued.warnings.iter().map(|text| ("warning", text.clone())));
    let now = Clock::System.now();
    if !Life::new(issued.expiry, &provider.life, fetched.sent, 0.0).usable(now) {
        return Err(FetchError::DeadOnArrival.to_string());
    }
    lines.push(("schedule", schedule(provider, fetched, now)));
    let variables = inputs::ready(&provider.variables);
    let built = provider.inject.build(&issued.access_token, &variables);
    built.map_err(|problem| FetchError::Inject(problem).to_string())?;
    let headers = provider.inject.header_names().iter();
    let keys = provider.inject.query_names().iter();
    let places: Vec<String> = headers
        .map(|name| format!("header {name}"))
        .chain(keys.map(|name| format!("query key {name}")))
        .collect();
    lines.push(("sent as", places.join(", ")));
    Ok(())
}

fn expiry(expiry: Expiry) -> String {
    match expiry {
        Expiry::Unstated => "no expiry stated".to_owned(),
        Expiry::In(life) => format!("expires in {}", words::duration(life)),
        Expiry::At { at, .. } => match at.duration_since(SystemTime::now()) {
            Ok(left) => format!("expires in {} (an absolute time)", words::duration(left)),
            Err(_) => "already expired, by this machine's clock".to_owned(),
        },
    }
}

fn schedule(provider: &Provider, fetched: &Fetched, now: Now) -> String {
    if let TokenSource::Static { .. } = provider.source {
        return "read again on changes".to_owned();
    }
    let (usable, next) = plan(fetched, &provider.life, now);
    let usable = match usable {
        Some(left) => format!("for {}", words::duration(left)),
        None => "until it is rejected".to_owned(),
    };
    match next {
        Some(away) => format!("usable {usable}, renewed after {}", words::duration(away)),
        None => format!("usable {usable}, not renewed before"),
    }
}

/// Returns how long the token is usable, and when the refresher would fetch the next one at the
/// latest.
fn plan(fetched: &Fetched, rules: &LifeCycle, now: Now) -> (Option<Duration>, Option<Duration>) {
    let life = Life::new(fetched.issued.expiry, rules, fetched.sent, 0.0);
    let mut schedule = Schedule::new(rules.clone());
    schedule.started(fetched.sent);
    schedule.succeeded(life, false, now);
    let next = schedule.next(now).map(|next| next.saturating_sub(now.boot));
    (life.left(now), next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::NoEnvironment;
    use crate::demo::setup::Setup;
    use crate::demo::vendors::{Credential, FakeVendor, Fault, Kind};
    use crate::dialect::Issued;

    #[test]
    fn an_hour_is_renewed_after_four_fifths() {
        let now = Clock::System.now();
        let fetched = Fetched {
            issued: Issued {
                access_token: "t".into(),
                refresh_token: None,
                expiry: Expiry::In(Duration::from_secs(3600)),
                warnings: Vec::new(),
            },
            sent: now,
        };
        let rules = LifeCycle {
            refresh_before: None,
            min_interval: Duration::from_secs(5),
            ttl: None,
            single_active: false,
            required: true,
        };
        let (usable, next) = plan(&fetched, &rules, now);
        assert_eq!(usable, Some(Duration::from_secs(3599)));
        assert_eq!(next, Some(Duration::from_secs(2880)));
    }

    #[tokio::test]
    async fn demo_vendors_issue_tokens_and_no_secret_is_shown() {
        let (events, _seen) = tokio::sync::mpsc::unbounded_channel();
        let setup = Setup::start(events).await.unwrap();
        let text = setup.config("127.0.0.1:0", "127.0.0.1:0");
        let config = Config::from_toml(&text, &NoEnvironment).unwrap();
        for (provider, vendor) in config.providers.iter().zip(by_name(&setup)) {
            let (lines, outcome) = fetch(provider, &Tokens::default()).await;
            assert!(outcome.is_ok(), "{:?}", vendor.refusals());
            assert_eq!(vendor.counters().issued, 1, "{}", provider.name);
            let shown = format!("{lines:?}");
            for (key, credential) in vendor.kind().credentials() {
                if let Credential::Text(secret) = credential
                    && ["client_secret", "password"].contains(key)
                {
                    assert!(!shown.contains(secret), "{key} in {shown}");
                }
            }
            assert!(shown.contains("header authorization"), "{shown}");
        }
    }

    #[tokio::test]
    async fn a_refusal_quotes_the_vendor() {
        let (events, _seen) = tokio::sync::mpsc::unbounded_channel();
        let setup = Setup::start(events).await.unwrap();
        let text = setup.config("127.0.0.1:0", "127.0.0.1:0");
        let config = Config::from_toml(&text, &NoEnvironment).unwrap();
        for (provider, vendor) in config.providers.iter().zip(by_name(&setup)) {
            vendor.set_fault(Some(Fault::RejectCredentials));
            let (_, outcome) = fetch(provider, &Tokens::default()).await;
            let reason = outcome.unwrap_err();
            let words = match vendor.kind() {
                Kind::Cncn => "用户名或密码错误",
                Kind::Besender => "客户端ID或秘钥错误",
                Kind::Ctcfile => "clientId或clientSecret错误",
                Kind::IdentityServer => "invalid_client",
                Kind::Passport => "The user credentials were incorrect.",
            };
            assert!(reason.contains(words), "{reason}");
        }
    }

    /// Sorts like the configuration's providers.
    fn by_name(setup: &Setup) -> Vec<&FakeVendor> {
        let mut vendors: Vec<_> = setup.vendors().iter().collect();
        vendors.sort_by_key(|vendor| vendor.kind().name());
        vendors
    }
}
