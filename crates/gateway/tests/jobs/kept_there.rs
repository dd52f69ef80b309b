//! What a provider keeps: one project cannot name another's, and answers that are kept can be asked for again.

use fake_ai::{On, Reply};
use serde_json::{Value, json};

use crate::world::{BANK, Home, Read, SHOP, World, until};

const MODEL: &str = "openai/gpt-5-mini";

fn ask(more: &Value) -> Value {
    let mut body = json!({ "model": MODEL, "input": "hello" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn respond(world: &World, key: &str, more: Value) -> Read {
    world.post(key, "/v1/responses", &ask(&more)).await
}

#[tokio::test]
async fn a_request_cannot_name_what_another_project_keeps_at_the_provider() {
    let home = Home::new().await;
    let world = home.open("").await;
    let first = respond(&world, SHOP, json!({})).await.id();
    let streamed = respond(&world, SHOP, json!({ "stream": true, "store": true })).await;
    assert_eq!(streamed.status, 200, "{}", streamed.text());
    let text = streamed.text();
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut events = events.map(|data| serde_json::from_str::<Value>(data).unwrap());
    let event =
        events.find(|event| event["type"] == "response.completed").unwrap_or_else(|| panic!("{text}"));
    let second = event["response"]["id"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    let conversation = json!({ "conversation": { "id": "conv_of_the_shop" } });
    respond(&world, SHOP, conversation.clone()).await.id();
    let file = world.upload(SHOP, "{}").await;
    let image = json!([{ "role": "user", "content": [{ "type": "input_image", "file_id": file }] }]);
    until("all four are written", || async {
        world.rows("SELECT remote_id FROM ai_things").await.len() == 5
    })
    .await;
    let sent = home.fake.requests().len();
    let cases = [
        ("previous_response_id", json!({ "previous_response_id": first })),
        ("previous_response_id", json!({ "previous_response_id": second, "stream": true })),
        ("conversation", conversation),
        ("conversation", json!({ "conversation": "conv_of_the_shop" })),
        ("file_id", json!({ "input": image })),
        (
            "file_ids",
            json!({ "tools": [{ "type": "code_interpreter", "container": { "type": "auto", "file_ids": [file] } }] }),
        ),
    ];
    for (field, more) in &cases {
        let refused = respond(&world, BANK, more.clone()).await;
        assert_eq!(refused.status, 404, "{more}: {}", refused.text());
        assert_eq!(refused.json()["error"]["param"], *field, "{}", refused.text());
        assert!(!refused.headers.contains_key("steward-receipt"));
    }
    // In the other formats, and written otherwise.
    let chat = json!({ "model": MODEL, "messages": [{ "role": "user", "content": [{ "type": "file", "file": { "file_id": file } }] }] });
    assert_eq!(world.post(BANK, "/v1/chat/completions", &chat).await.status, 404);
    let escaped = chat.to_string().replace("file_id", "file\\u005fid");
    assert_eq!(
        world.send(BANK, "POST", "/v1/chat/completions", "application/json", escaped).await.status,
        404
    );
    assert_eq!(home.fake.requests().len(), sent, "none of it was sent");
    // Nor in a batch, of either provider.
    let line = |body: &Value| {
        json!({ "custom_id": "1", "method": "POST", "url": "/v1/responses", "body": body }).to_string()
    };
    let of_shop = ask(&json!({ "model": "gpt-5-mini", "input": image, "max_output_tokens": 9 }));
    let batch = |input: &str| json!({ "input_file_id": input, "endpoint": "/v1/responses", "completion_window": "24h" });
    let input = world.upload(BANK, &line(&of_shop)).await;
    let refused = world.post(BANK, "/v1/batches", &batch(&input)).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["param"]), (404, &json!("file_id")));
    let later = ask(&json!({ "model": "gpt-5-mini", "max_output_tokens": 9, "background": true }));
    let input = world.upload(BANK, &line(&later)).await;
    let refused = world.post(BANK, "/v1/batches", &batch(&input)).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["param"]), (400, &json!("background")));
    let source = json!({ "type": "file", "file_id": file });
    let params = json!({ "model": "claude-haiku-4-5", "max_tokens": 9,
        "messages": [{ "role": "user", "content": [{ "type": "document", "source": source }] }] });
    let messages = json!({ "requests": [{ "custom_id": "1", "params": params }] });
    assert_eq!(world.post(BANK, "/v1/messages/batches", &messages).await.status, 404);
    let made =
        home.fake.requests().iter().filter(|it| it.method == "POST" && it.path.ends_with("/batches")).count();
    assert_eq!(made, 0, "none was made");
    let input = world.upload(SHOP, &line(&of_shop)).await;
    assert_eq!(world.post(SHOP, "/v1/batches", &batch(&input)).await.status, 200);
    assert_eq!(world.post(SHOP, "/v1/messages/batches", &messages).await.status, 200);
    // Whose they are may use them, and so may anybody use what nobody here has made.
    for (_, more) in &cases {
        assert_eq!(respond(&world, SHOP, more.clone()).await.status, 200, "{more}");
    }
    assert_eq!(world.post(SHOP, "/v1/chat/completions", &chat).await.status, 200);
    let elsewhere = json!({ "previous_response_id": "resp_elsewhere", "conversation": null });
    assert_eq!(respond(&world, BANK, elsewhere).await.status, 200);
    let many: Vec<_> =
        (0..501).map(|number| json!({ "type": "input_file", "file_id": format!("f{number}") })).collect();
    let many = json!({ "input": [{ "role": "user", "content": many }] });
    assert_eq!(respond(&world, SHOP, many).await.status, 400);
}

#[tokio::test]
async fn only_what_the_provider_keeps_is_remembered_and_no_longer_than_it_does() {
    let home = Home::new().await;
    let world = home.open("").await;
    respond(&world, SHOP, json!({ "store": false })).await.id();
    let chat = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hello" }] });
    world.post(SHOP, "/v1/chat/completions", &chat).await.id();
    home.fake.next_on(On::generation(), Reply::error(400, "invalid_request_error", "no such conversation"));
    assert_eq!(respond(&world, SHOP, json!({ "conversation": "conv_unknown" })).await.status, 400);
    let kept = respond(&world, SHOP, json!({})).await.id();
    until("it is written", || async { !world.rows("SELECT 1 FROM ai_things").await.is_empty() }).await;
    let rows = world.rows("SELECT project, provider, remote_id, kind, key_id FROM ai_things").await;
    let row: Vec<_> = ["project", "provider", "remote_id", "kind", "key_id"]
        .map(|name| rows[0].get_text(name).unwrap().to_owned())
        .into();
    assert_eq!(
        (rows.len(), row),
        (1, ["shop", "openai", &kept, "response", "vk_shop"].map(str::to_owned).into())
    );
    let file = world.upload(SHOP, "{}").await;
    world.accounts.close().await.unwrap();
    // Until then it is the project's after a restart as well.
    home.hours(24 * 30);
    let world = home.open("").await;
    assert_eq!(respond(&world, BANK, json!({ "previous_response_id": kept })).await.status, 404);
    world.accounts.close().await.unwrap();
    home.hours(24 * 2);
    let world = home.open("").await;
    let rows = world.rows("SELECT remote_id FROM ai_things").await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get_text("remote_id").unwrap(), file);
}

#[tokio::test]
async fn kept_answers_are_read_cancelled_and_deleted_by_those_whose_they_are() {
    let home = Home::new().await;
    let world = home.open("").await;
    let id = respond(&world, SHOP, json!({})).await.id();
    let path = format!("/v1/responses/{id}");
    let answer = json!({ "id": id, "object": "response", "status": "completed" });
    for (method, below) in [("GET", ""), ("GET", "/input_items?limit=1"), ("POST", "/cancel"), ("DELETE", "")]
    {
        let path = format!("{path}{below}");
        // Another project, another key of the same project that reaches one route only.
        assert_eq!(world.send(BANK, method, &path, "", "").await.status, 404, "{method} {path}");
        world
            .compile(|grant| {
                grant.id = "vk_another".into();
                grant.reach = gateway::Reach::Named(["openai/gpt-5-mini".into()].into());
            })
            .await;
        assert_eq!(world.send(SHOP, method, &path, "", "").await.status, 404, "{method} {path}");
        world.compile(|_| {}).await;
        let sent = home.fake.requests().len();
        home.fake.next_on(On::any(), Reply::raw("application/json", answer.to_string()));
        let read = world.send(SHOP, method, &path, "", "").await;
        assert_eq!((read.status.as_u16(), read.json()), (200, answer.clone()), "{method} {path}");
        let request = home.fake.request(sent).await;
        let told = if request.query.is_empty() {
            request.path.clone()
        } else {
            format!("{}?{}", request.path, request.query)
        };
        assert_eq!((request.method.as_str(), told), (method, path.clone()));
        assert!(read.headers.contains_key("steward-receipt"));
    }
    // It is gone, and nobody is asked for it.
    assert_eq!(world.get(SHOP, &path).await.status, 404);
    let rows =
        || async { world.rows("SELECT cost_usd_nanos FROM ai_usage WHERE operation = 'responses'").await };
    until("the four are written", || async { rows().await.len() == 4 }).await;
    assert!(rows().await.iter().all(|row| row.get_i64("cost_usd_nanos").unwrap() == 0));
    // A key that reaches the whole provider reads what another key of its project has made.
    let id = respond(&world, SHOP, json!({})).await.id();
    world.compile(|grant| grant.id = "vk_another".into()).await;
    home.fake.next_on(On::any(), Reply::raw("application/json", "{}"));
    assert_eq!(world.get(SHOP, &format!("/v1/responses/{id}")).await.status, 200);
}
