//! The authorization request and its response (RFC 6749 §4.1).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tokio::time::{Duration, timeout};
use zeroize::Zeroizing;

use super::redirect::{Loopback, RedirectUri};
use super::response::{has_state, parameter, parameters};
use super::{Login, LoginError, variable};
use crate::config::{Endpoint, Provider};
use crate::dialect::{Var, Variables};
use crate::secret::Secret;

/// Time limit for the person; an abandoned login must release its port.
const PATIENCE: Duration = Duration::from_secs(600);

/// Optional request parameters (RFC 6749 §4.1.1, RFC 8707).
const OPTIONAL: [&str; 3] = ["scope", "audience", "resource"];

/// An authorization request that waits for its response.
pub struct Authorization {
    /// The URL to open in a browser. Holds no secret: it can begin this login but not finish it.
    pub url: String,
    pub back: Return,
    expected: Expected,
}

/// How the authorization response arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Return {
    /// By redirect to this loopback address.
    Loopback(String),
    /// By a person, who pastes the redirected address.
    ByHand,
}

/// Checks for the response, and variables for the token request.
pub(super) struct Expected {
    state: Secret,
    /// Issuer of the response, if known.
    issuer: Option<String>,
    /// Whether every response names the issuer (RFC 9207).
    names_issuer: bool,
    verifier: Option<Secret>,
    redirect_uri: String,
    /// Name of the code's parameter.
    code_parameter: String,
    listener: Option<Loopback>,
}

impl Login {
    /// Starts the authorization request. Listens on loopback `port` (0: any) unless the redirect
    /// goes elsewhere or `by_hand` is set: then a person pastes the redirected address.
    pub async fn authorize(&self, port: u16, by_hand: bool) -> Result<Authorization, LoginError> {
        let (provider, endpoint) = (&self.provider, self.endpoint()?);
        let redirect = RedirectUri::configured(provider).await?;
        let listener = match &redirect {
            RedirectUri::Loopback(address) if !by_hand => Some(address.listen(port).await?),
            RedirectUri::Loopback(_) | RedirectUri::Elsewhere(_) => None,
        };
        let redirect_uri = match (&listener, redirect) {
            (Some(listener), _) => listener.redirect_uri.clone(),
            (None, RedirectUri::Elsewhere(uri)) => uri,
            // No server listens there, but the address bar shows the redirected address.
            (None, RedirectUri::Loopback(address)) => address.uri(port),
        };
        // Sends a PKCE challenge only if the token request has a verifier and the server supports
        // S256. The method `plain` protects no more than `state` does.
        let takes_verifier = endpoint.plan.known_variables().contains("code_verifier");
        let verifier = (takes_verifier && !endpoint.browser.lacks_s256).then(random);
        let expected = Expected {
            state: random(),
            issuer: endpoint.browser.issuer.clone(),
            names_issuer: endpoint.browser.names_issuer,
            verifier,
            redirect_uri,
            code_parameter: endpoint.plan.code_parameter.clone(),
            listener,
        };
        let back = match &expected.listener {
            Some(listener) => Return::Loopback(listener.redirect_uri.clone()),
            None => Return::ByHand,
        };
        Ok(Authorization {
            url: expected.url(provider, endpoint).await?,
            back,
            expected,
        })
    }
}

impl Authorization {
    /// Waits for the redirect, and ignores redirects with another `state`. Cancel safe.
    pub async fn wait(self) -> Result<Variables, LoginError> {
        let Some(listener) = &self.expected.listener else {
            return Err(LoginError::WrongRedirect("no listener waits for it"));
        };
        let query = timeout(PATIENCE, listener.answer(&self.expected.state))
            .await
            .map_err(|_| LoginError::TimedOut(PATIENCE.as_secs()))?;
        self.expected.read(&query)
    }

    /// Reads the redirected address.
    pub fn take(self, address: &Secret) -> Result<Variables, LoginError> {
        let query = (address.expose().trim())
            .split_once('?')
            .map(|(_, query)| query.split('#').next().unwrap_or_default())
            .ok_or(LoginError::WrongRedirect("it has no query"))?;
        self.expected.read(&Secret::new(query))
    }
}

impl Expected {
    async fn url(&self, provider: &Provider, endpoint: &Endpoint) -> Result<String, LoginError> {
        let client_id = variable(provider, "client_id")
            .await?
            .ok_or_else(|| LoginError::NoClientId(provider.name.clone()))?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", client_id.expose())
            .append_pair("redirect_uri", &self.redirect_uri)
            .append_pair("state", self.state.expose());
        for name in OPTIONAL {
            if let Some(value) = variable(provider, name).await?
                && !value.is_empty()
            {
                query.append_pair(name, value.expose());
            }
        }
        if let Some(verifier) = &self.verifier {
            query
                .append_pair("code_challenge", &challenge(verifier))
                .append_pair("code_challenge_method", "S256");
        }
        let base = endpoint.authorization_url.as_deref().unwrap_or_default();
        let separator = if base.contains('?') { '&' } else { '?' };
        Ok(format!("{base}{separator}{}", query.finish()))
    }

    /// RFC 9207 §2.4: a code from another authorization server must not be sent to this one.
    fn check_issuer(&self, query: &Secret) -> Result<(), LoginError> {
        let Some(issuer) = &self.issuer else {
            return Ok(());
        };
        let named: Vec<_> = parameters(query, "iss").collect();
        match &named[..] {
            [] if self.names_issuer => {
                Err(LoginError::WrongRedirect("it does not name its issuer"))
            }
            [] => Ok(()),
            [one] if one.expose() == issuer => Ok(()),
            _ => Err(LoginError::WrongRedirect("it comes from another issuer")),
        }
    }

    /// Reads the code or the error (RFC 6749 §4.1.2).
    fn read(&self, query: &Secret) -> Result<Variables, LoginError> {
        if !has_state(query, &self.state) {
            return Err(LoginError::WrongRedirect(
                "its state belongs to another login",
            ));
        }
        self.check_issuer(query)?;
        if let Some(error) = parameter(query, "error") {
            let words = parameter(query, "error_description");
            return Err(LoginError::Denied(shown(&error, words.as_ref())));
        }
        let code = parameter(query, &self.code_parameter)
            .filter(|code| !code.is_empty())
            .ok_or(LoginError::WrongRedirect("it has no code"))?;
        let redirect_uri = Secret::new(self.redirect_uri.as_str());
        let verifier = self.verifier.clone().map(|it| ("code_verifier", it));
        let variables = [("code", code), ("redirect_uri", redirect_uri)]
            .into_iter()
            .chain(verifier);
        Ok(variables
            .map(|(name, text)| (name.to_owned(), Var::Text(text)))
            .collect())
    }
}

/// Formats the error of the server on one line, shortened.
fn shown(error: &Secret, words: Option<&Secret>) -> String {
    let words = words.map_or(String::new(), |words| format!(": {}", words.expose()));
    let text = error.expose().chars().chain(words.chars());
    text.filter(|c| !c.is_control()).take(300).collect()
}

/// S256 challenge (RFC 7636 §4.2).
fn challenge(verifier: &Secret) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose().as_bytes()))
}

/// 256 random bits as 43 characters, as RFC 7636 §4.1 recommends for a verifier.
fn random() -> Secret {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    aws_lc_rs::rand::fill(&mut *bytes)
        .expect("the system has random numbers, or TLS would not work");
    Secret::new(BASE64_URL_SAFE_NO_PAD.encode(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenge_matches_rfc_7636_appendix_b() {
        let verifier = Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(
            challenge(&verifier),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }

    #[test]
    fn verifiers_are_43_unreserved_random_characters() {
        let (one, other) = (random(), random());
        assert_ne!(one, other);
        let unreserved = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        assert!(one.expose().len() == 43 && one.expose().chars().all(unreserved));
    }

    fn expected() -> Expected {
        Expected {
            state: "s".into(),
            issuer: None,
            names_issuer: false,
            verifier: None,
            redirect_uri: "http://127.0.0.1:1/".to_owned(),
            code_parameter: "code".to_owned(),
            listener: None,
        }
    }

    #[test]
    fn redirect_must_name_the_known_issuer() {
        let read = |names_issuer, query: &str| {
            let expected = Expected {
                issuer: Some("https://id.example/a".to_owned()),
                names_issuer,
                ..expected()
            };
            expected
                .read(&query.into())
                .map_err(|error| error.to_string())
        };
        const OURS: &str = "code=c&state=s&iss=https%3A%2F%2Fid.example%2Fa";
        assert!(read(true, OURS).is_ok() && read(false, OURS).is_ok());
        assert!(read(false, "code=c&state=s").is_ok());
        for (names_issuer, query, words) in [
            (true, "code=c&state=s", "does not name its issuer"),
            (true, "error=x&state=s", "does not name its issuer"),
            (
                false,
                "code=c&state=s&iss=https%3A%2F%2Fid.example%2Fb",
                "another issuer",
            ),
            (false, "error=x&state=s&iss=", "another issuer"),
            (true, &format!("{OURS}&iss=x"), "another issuer"),
        ] {
            let error = read(names_issuer, query).unwrap_err();
            assert!(error.contains(words), "{query}: {error}");
        }
    }

    #[test]
    fn redirect_needs_the_state_and_one_code() {
        let read = |query: &str| expected().read(&query.into());
        let code = read("code=a%2Bb&state=s&iss=x").unwrap();
        assert_eq!(code["code"].to_text().expose(), "a+b");
        let renamed = Expected {
            code_parameter: "auth_code".to_owned(),
            ..expected()
        };
        let code = renamed.read(&"auth_code=c&state=s&code=x".into()).unwrap();
        assert_eq!(code["code"].to_text().expose(), "c");
        assert!(renamed.read(&"code=c&state=s".into()).is_err());
        for (query, words) in [
            ("code=c&state=t", "another login"),
            ("code=c", "another login"),
            ("code=c&state=s&state=s", "another login"),
            ("code=c&state=t&error=x", "another login"),
            ("state=s", "no code"),
            ("state=s&code=", "no code"),
            ("state=s&code=a&code=b", "no code"),
            (
                "state=s&error=access_denied&error_description=%E4%B8%8D%0A",
                "refused: access_denied: 不",
            ),
        ] {
            let error = read(query).unwrap_err().to_string();
            assert!(error.contains(words), "{query}: {error}");
        }
    }
}
