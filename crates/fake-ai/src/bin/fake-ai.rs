//! The simulated provider as a program: `fake-ai [ADDRESS]` prints its address and answers until it is stopped.

use std::io::Write as _;

use fake_ai::FakeAi;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let address = address.parse().map_err(std::io::Error::other)?;
    let fake = FakeAi::start_on(address).await?;
    writeln!(std::io::stdout(), "a simulation of AI providers, no model: {}", fake.url())?;
    std::future::pending().await
}
