//! The field's Rust client against the server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/server.rs"]
mod server;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::types::chat::{ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequestArgs};
use futures_util::StreamExt;
use server::Server;

const ANSWER: &str = "2 plus 3 is 5.";

fn client(server: &Server) -> Client<OpenAIConfig> {
    Client::with_config(OpenAIConfig::new().with_api_base(server.url("/v1")).with_api_key("none"))
}

fn request() -> CreateChatCompletionRequestArgs {
    let user = ChatCompletionRequestUserMessageArgs::default().content("What is 2 plus 3?").build().unwrap();
    let mut request = CreateChatCompletionRequestArgs::default();
    request.model("nano").messages([user.into()]).temperature(0.0);
    request
}

#[tokio::test]
async fn it_chats() {
    let server = Server::start().await;
    let answer = client(&server).chat().create(request().build().unwrap()).await.unwrap();
    assert_eq!(answer.choices[0].message.content.as_deref(), Some(ANSWER));
    assert!(answer.usage.unwrap().total_tokens > 0);
}

#[tokio::test]
async fn it_reads_streams() {
    let server = Server::start().await;
    let mut stream = client(&server).chat().create_stream(request().build().unwrap()).await.unwrap();
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        text += chunk.unwrap().choices[0].delta.content.as_deref().unwrap_or_default();
    }
    assert_eq!(text, ANSWER);
}

#[tokio::test]
async fn it_understands_models_and_errors() {
    let server = Server::start().await;
    assert_eq!(client(&server).models().list().await.unwrap().data[0].id, "nano");
    let refused = client(&server).chat().create(request().model("other").build().unwrap()).await.unwrap_err();
    assert!(refused.to_string().contains("is not served here"), "{refused}");
}
