//! The task on tokio-tungstenite: see ../README.md.
//!
//! Why: a task per connection is how its examples and tokio's guide write a server; a broadcast channel per set wakes
//! them with the shared tail, and each makes its own message. `feed` and one `flush` per tick join several messages
//! into one write. The runtime has one thread because the server has one core. The library has no compression.

mod feed;

use std::{env, process, sync::Arc};

use feed::{Feed, Tails};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::Receiver;
use tokio_tungstenite::tungstenite::{protocol::WebSocketConfig, Message};
use tokio_tungstenite::{accept_async_with_config, WebSocketStream};

/// In bytes. Of the 128 KiB it ships with, every look for input costs a zeroing, and every connection the memory.
const READ_BUFFER: usize = 4096;

const USAGE: &str = "usage: --port P --workload FILE [--compress none]";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (mut port, mut workload) = (0_u16, String::new());
    let mut told = env::args().skip(1);
    while let Some(option) = told.next() {
        match option.as_str() {
            "--version" => return println!("{}", env!("VERSIONS")),
            "--port" => port = told.next().and_then(|text| text.parse().ok()).unwrap_or(0),
            "--workload" => workload = told.next().unwrap_or_default(),
            "--compress" if told.next().as_deref() == Some("none") => {}
            _ => fail(USAGE),
        }
    }
    if port == 0 || workload.is_empty() {
        fail(USAGE);
    }
    let feed = Arc::new(Feed::load(&workload).unwrap_or_else(|error| fail(&format!("{workload}: {error}"))));
    let listener = match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => listener,
        Err(error) => fail(&format!("port {port}: {error}")),
    };
    tokio::spawn(feed.clone().run());
    while let Ok((stream, _)) = listener.accept().await {
        let feed = feed.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            serve(stream, &feed).await;
        });
    }
}

/// Serve one connection until it or the server is gone.
async fn serve(stream: TcpStream, feed: &Feed) -> Option<()> {
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let mut socket = accept_async_with_config(stream, Some(config)).await.ok()?;
    let mut ticks = loop {
        if let Message::Text(text) = socket.next().await?.ok()? {
            break feed.subscribe(&text)?;
        }
    };
    let mut sequence = 0_u64;
    loop {
        tokio::select! {
            message = socket.next() => match message?.ok()? {
                Message::Text(text) => ticks = feed.subscribe(&text)?,
                _ => continue,
            },
            tails = next(&mut ticks) => send(&mut socket, feed, &tails?, &mut sequence).await?,
        }
    }
}

/// The next tick's tails; none when the connection has fallen too far behind.
async fn next(ticks: &mut Receiver<Tails>) -> Option<Tails> {
    ticks.recv().await.ok()
}

async fn send(socket: &mut WebSocketStream<TcpStream>, feed: &Feed, tails: &Tails, sequence: &mut u64) -> Option<()> {
    for tail in tails.iter() {
        *sequence += 1;
        let number = sequence.to_string();
        let mut text = String::with_capacity(feed.prefix.len() + number.len() + tail.len());
        text.push_str(&feed.prefix);
        text.push_str(&number);
        text.push_str(tail);
        socket.feed(Message::text(text)).await.ok()?;
    }
    socket.flush().await.ok()
}

fn fail(why: &str) -> ! {
    eprintln!("{why}");
    process::exit(2)
}
