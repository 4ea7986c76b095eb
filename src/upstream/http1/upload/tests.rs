use std::io::IoSlice;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::upstream::http1::output::SMALL_FRAME;
use crate::upstream::request;

/// Takes a few bytes per poll, like a socket whose buffer is nearly full, then is pending once.
struct Trickle {
    sizes: Vec<usize>,
    polls: usize,
    taken: Vec<u8>,
}

impl Trickle {
    fn new(sizes: Vec<usize>) -> Self {
        Self {
            sizes,
            polls: 0,
            taken: Vec::new(),
        }
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.polls += 1;
        // Lets the app's connection run: the next frame arrives before the last one is written.
        if this.polls.is_multiple_of(2) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = this.sizes[this.polls / 2 % this.sizes.len()];
        let before = this.taken.len();
        for part in parts {
            let left = before + size - this.taken.len();
            this.taken.extend_from_slice(&part[..part.len().min(left)]);
        }
        Poll::Ready(Ok(this.taken.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns the bytes at the upstream of a body that the app sent in these chunks.
async fn sent(chunks: &[Vec<u8>], writes: Vec<usize>) -> Vec<u8> {
    let (mut app, replay) = request::tests::upload(0).await;
    let mut text = Vec::new();
    for chunk in chunks {
        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    tokio::spawn(async move {
        app.write_all(&text).await.unwrap();
        // Open until the end: the app waits for the response.
        std::future::pending::<()>().await;
    });
    let request = http::Request::post("/").header("host", "api").body(());
    let (head, ()) = request.unwrap().into_parts();
    let mut upload = Upload::new();
    upload.begin(&head, replay.body().unwrap());
    let mut upstream = Trickle::new(writes);
    std::future::poll_fn(|cx| upload.poll(cx, &mut upstream))
        .await
        .unwrap();
    upstream.taken
}

/// Decodes chunks as strictly as RFC 9112 §7.1.
fn unchunked(mut text: &[u8]) -> Option<Vec<u8>> {
    let line = |text: &[u8]| text.windows(2).position(|end| end == b"\r\n");
    let mut body = Vec::new();
    loop {
        let end = line(text)?;
        let size = usize::from_str_radix(std::str::from_utf8(&text[..end]).ok()?, 16).ok()?;
        text = &text[end + 2..];
        if size == 0 {
            return (text == b"\r\n").then_some(body);
        }
        body.extend_from_slice(text.get(..size)?);
        text = text.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

fn chunk() -> impl Strategy<Value = Vec<u8>> {
    // Small frames are copied together, large frames are not.
    prop_oneof![1..64_usize, 1..3 * SMALL_FRAME]
        .prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length))
}

/// Write sizes: few bytes, many, or so many that only the end of a chunk is left.
fn write_sizes() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![1..8_usize, 1..3000_usize, Just(SMALL_FRAME + 1)];
    proptest::collection::vec(size, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_body_stays_whole_however_little_the_upstream_takes_at_a_time(
        chunks in proptest::collection::vec(chunk(), 1..8),
        writes in write_sizes(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let text = runtime.block_on(sent(&chunks, writes));
        let end = text.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
        let body = unchunked(&text[end + 4..]);
        prop_assert_eq!(body, Some(chunks.concat()));
    }
}
