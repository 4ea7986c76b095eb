//! Answers that are not in the form that was asked for, and credentials with line ends.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::client::{Frames, whole};
use crate::harness::{World, server, with_app_in};
use crate::upstream::{HTTP1, Server};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn respond(body: impl Into<Vec<u8>>) -> Response<Frames> {
    Response::new(whole(body.into()))
}

/// A token endpoint that answers in gzip, with bodies `sent` to it.
async fn token_endpoint(world: &World, sent: Arc<Mutex<Vec<String>>>) -> Server {
    let answer = move |request: Request<Incoming>| {
        let sent = Arc::clone(&sent);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let number = {
                let mut sent = sent.lock().unwrap();
                sent.push(String::from_utf8(body.to_vec()).unwrap());
                sent.len()
            };
            respond(gzip(
                format!("\u{feff}{{\"access_token\":\"T{number}\",\"expires_in\":1576797207}}")
                    .as_bytes(),
            ))
        }
    };
    Server::start(&world.authority, HTTP1, answer).await
}

/// An API that rejects T1 in HTTP 200 with a GBK text in gzip.
async fn api(world: &World) -> Server {
    let answer = |request: Request<Incoming>| async move {
        let token = request.headers()[header::AUTHORIZATION].to_str().unwrap();
        if token != "Bearer T1" {
            return respond(token);
        }
        let mut rejected = respond(gzip(
            b"{\"errmsg\":\"\xb9\xfd\xc6\xda\\\"\xd5\x5c\",\"errcode\":42001}",
        ));
        let json = "application/json".parse().unwrap();
        rejected.headers_mut().insert(header::CONTENT_TYPE, json);
        rejected
    };
    Server::start(&world.authority, HTTP1, answer).await
}

#[tokio::test]
async fn coded_answers_are_read_and_line_ends_of_a_secret_are_not_sent() {
    let world = World::new();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let vendor = token_endpoint(&world, Arc::clone(&sent)).await;
    let api = api(&world).await;
    let tls = world.tls();
    let config = server("")
        + &format!(
            "[providers.p]\ndialect = \"oauth2-post\"\ntoken_url = \"{}/token\"\nclient_id = \"c\"\n\
             client_secret = {{ env = \"SECRET\" }}\n{tls}\n\
             [providers.p.request.form]\ngrant_type = \"client_credentials\"\n\
             secret = \"{{client_secret}}\"\nid = \"{{client_id}}\"\n\
             resource = [\"https://a\", \"https://b\"]\n\
             [providers.p.reject]\nbody = {{ \"/errcode\" = 42001 }}\n\
             [upstreams.u]\nurl = \"{}\"\nprovider = \"p\"\n{tls}\n",
            vendor.url(),
            api.url(),
        );
    let environment = [("SECRET", "\u{feff}s3cret\r\n\n")];
    with_app_in(environment, &config, async |app| {
        let answer = app.get("/").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text(), "Bearer T2");
    })
    .await;
    let sent = sent.lock().unwrap();
    let form = "grant_type=client_credentials&secret=s3cret&id=c\
                &resource=https%3A%2F%2Fa&resource=https%3A%2F%2Fb";
    assert_eq!(*sent, [form, form]);
}
