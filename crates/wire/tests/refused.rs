//! What another format cannot say is refused, and the field is named.

use wire::{Format, Target, convert_request};

#[test]
fn what_would_change_the_answer_is_refused_with_its_field() {
    use Format::{Chat, Gemini, Messages, Responses};
    for (from, to, body, field) in [
        (Chat, Messages, r#"{"messages":[],"n":2}"#, "n"),
        (Chat, Messages, r#"{"messages":[],"modalities":["text","audio"]}"#, "modalities"),
        (Chat, Messages, r#"{"messages":[],"web_search_options":{}}"#, "web_search_options"),
        (Chat, Messages, r#"{"messages":[],"functions":[]}"#, "functions"),
        (Chat, Messages, r#"{"messages":[],"tools":[{"type":"custom","custom":{"name":"a"}}]}"#, "tools[0]"),
        (Chat, Messages, r#"{"messages":[],"tool_choice":"sometimes"}"#, "tool_choice"),
        (
            Chat,
            Messages,
            r#"{"messages":[],"tool_choice":{"type":"function","function":{"name":"a"}}}"#,
            "tool_choice",
        ),
        (
            Chat,
            Messages,
            r#"{"messages":[{"role":"function","name":"a","content":"b"}]}"#,
            "messages[0].role",
        ),
        (Chat, Messages, r#"{"messages":[{"role":"robot","content":"b"}]}"#, "messages[0].role"),
        (Chat, Messages, r#"{"messages":[{"content":"b"}]}"#, "messages[0].role"),
        (Chat, Messages, r#"{"messages":[{"role":"tool","content":"b"}]}"#, "messages[0].tool_call_id"),
        (Chat, Messages, r#"{"messages":[{"role":"user","content":7}]}"#, "messages[0].content"),
        (
            Chat,
            Messages,
            r#"{"messages":[{"role":"user","content":[{"type":"text"}]}]}"#,
            "messages[0].content[0].text",
        ),
        (
            Chat,
            Messages,
            r#"{"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"f"}}]}]}"#,
            "messages[0].content[0].file.file_id",
        ),
        (
            Chat,
            Messages,
            r#"{"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AA==","format":"wav"}}]}]}"#,
            "messages[0].input_audio",
        ),
        (Chat, Messages, r#"{"messages":[],"max_tokens":"many"}"#, "max_tokens"),
        (Chat, Messages, "{}", "messages"),
        (Chat, Responses, r#"{"messages":[],"stop":"x"}"#, "stop"),
        (Chat, Gemini, r#"{"messages":[{"role":"tool","tool_call_id":"a","content":"b"}]}"#, "messages[0]"),
        (Responses, Chat, r#"{"input":"a","previous_response_id":"r"}"#, "previous_response_id"),
        (Responses, Chat, r#"{"input":"a","conversation":"c"}"#, "conversation"),
        (Responses, Chat, r#"{"input":"a","background":true}"#, "background"),
        (Responses, Chat, r#"{"input":"a","prompt":{"id":"p"}}"#, "prompt"),
        (Responses, Chat, r#"{"input":"a","tools":[{"type":"web_search"}]}"#, "tools[0]"),
        (Responses, Chat, r#"{"input":[{"type":"item_reference","id":"i"}]}"#, "input[0].type"),
        (
            Responses,
            Chat,
            r#"{"input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]}"#,
            "input[0].content[0].file_id",
        ),
        (
            Responses,
            Chat,
            r#"{"input":[{"role":"user","content":[{"type":"input_file","file_url":"https://files.example/a.pdf"}]}]}"#,
            "input[0]",
        ),
        (Responses, Chat, "{}", "input"),
        (Messages, Chat, r#"{"messages":[],"mcp_servers":[{"type":"url"}]}"#, "mcp_servers"),
        (Messages, Chat, r#"{"messages":[],"container":"c"}"#, "container"),
        (
            Messages,
            Chat,
            r#"{"messages":[],"tools":[{"type":"web_search_20250305","name":"web_search"}]}"#,
            "tools[0]",
        ),
        (
            Messages,
            Chat,
            r#"{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"file","file_id":"f"}}]}]}"#,
            "messages[0].content[0].source.type",
        ),
        (
            Messages,
            Chat,
            r#"{"messages":[{"role":"user","content":[{"type":"web_search_tool_result"}]}]}"#,
            "messages[0].content[0].type",
        ),
        (Gemini, Chat, r#"{"contents":[],"cachedContent":"c"}"#, "cachedContent"),
        (Gemini, Chat, r#"{"contents":[],"tools":[{"googleSearch":{}}]}"#, "tools[0].googleSearch"),
        (
            Gemini,
            Chat,
            r#"{"contents":[],"generationConfig":{"candidateCount":2}}"#,
            "generationConfig.candidateCount",
        ),
        (
            Gemini,
            Chat,
            r#"{"contents":[],"generationConfig":{"responseModalities":["IMAGE"]}}"#,
            "generationConfig.responseModalities",
        ),
        (
            Gemini,
            Chat,
            r#"{"contents":[{"parts":[{"functionResponse":{"name":"a","response":{}}}]}]}"#,
            "contents[0].parts[0].functionResponse",
        ),
        (
            Gemini,
            Chat,
            r#"{"contents":[{"parts":[{"fileData":{"fileUri":"gs://bucket/a.pdf"}}]}]}"#,
            "contents[0].parts[0].fileData",
        ),
        (Gemini, Chat, r#"{"contents":[{"role":"judge","parts":[]}]}"#, "contents[0].role"),
        (Gemini, Chat, "{}", "contents"),
    ] {
        match convert_request(from, to, body.as_bytes(), &Target::new("m")) {
            Err(error) => {
                assert_eq!(error.field.as_deref(), Some(field), "{body}: {error}");
                assert!(error.message.contains(field), "{body}: {error}");
            }
            Ok(converted) => panic!("{body} became {}", String::from_utf8_lossy(&converted.body)),
        }
    }
}

#[test]
fn the_target_decides_what_its_model_understands() {
    let convert = |from, to, body: &str, target: &Target<'_>| {
        let converted = convert_request(from, to, body.as_bytes(), target).expect("the body is valid");
        (String::from_utf8(converted.body).expect("JSON is UTF-8"), converted.dropped)
    };
    let cached = r#"{"max_tokens":5,"thinking":{"type":"enabled","budget_tokens":1024},"messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}]}"#;
    let older = Target {
        chat_limit: "max_tokens",
        can_reason: false,
        chat_cache_control: true,
        stream: true,
        ..Target::new("m")
    };
    assert_eq!(
        convert(Format::Messages, Format::Chat, cached, &older),
        (
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}],"max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}"#.into(),
            vec!["thinking".into()],
        )
    );
    let plain = r#"{"messages":[{"role":"user","content":"a"}],"reasoning_effort":"low"}"#;
    let target = Target { max_tokens_default: 8_000, ..Target::new("m") };
    assert_eq!(
        convert(Format::Chat, Format::Messages, plain, &target).0,
        r#"{"model":"m","max_tokens":9024,"messages":[{"role":"user","content":"a"}],"thinking":{"type":"enabled","budget_tokens":1024}}"#
    );
    assert_eq!(
        convert(Format::Chat, Format::Messages, plain, &Target { can_reason: false, ..target }).1,
        ["reasoning_effort"]
    );
    let adaptive = Target { model: "claude-opus-4-6", ..target };
    assert_eq!(
        convert(Format::Chat, Format::Messages, plain, &adaptive).0,
        r#"{"model":"claude-opus-4-6","max_tokens":8000,"messages":[{"role":"user","content":"a"}],"thinking":{"type":"adaptive"},"output_config":{"effort":"low"}}"#
    );
    // The same format is not converted: only the model is replaced.
    assert_eq!(
        convert(
            Format::Chat,
            Format::Chat,
            r#"{ "model": "fast", "seed": 18446744073709551617, "new": {} }"#,
            &target
        )
        .0,
        r#"{ "model": "m", "seed": 18446744073709551617, "new": {} }"#
    );
}

#[test]
fn replies_that_are_errors_or_of_no_use_are_told() {
    use Format::{Chat, Gemini, Messages, Responses};
    for (from, to, body, problem) in [
        (Chat, Messages, "<html>", "the provider's reply is not valid JSON: expected a value at byte 0"),
        (Chat, Messages, "{}", "the reply has no `choices`"),
        (Chat, Messages, r#"{"choices":[]}"#, "the reply's `choices` are empty"),
        (
            Chat,
            Messages,
            r#"{"choices":[{"finish_reason":"error","message":{}}]}"#,
            "the model's answer cannot be used: the provider ended the answer with an error",
        ),
        (
            Chat,
            Messages,
            r#"{"error":{"message":"no","type":"server_error"}}"#,
            "the provider answered with an error: no",
        ),
        (
            Messages,
            Chat,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"later"}}"#,
            "the provider answered with an error: later",
        ),
        (Messages, Chat, "{}", "the reply has no `content`"),
        (
            Gemini,
            Chat,
            r#"{"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL"}]}"#,
            "the model's answer cannot be used: MALFORMED_FUNCTION_CALL",
        ),
        (
            Gemini,
            Messages,
            r#"{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AA=="}}]},"finishReason":"STOP"}]}"#,
            "the reply holds an image or a file, which the messages format cannot say",
        ),
        (Gemini, Chat, "{}", "the reply has no `candidates`"),
        (
            Responses,
            Chat,
            r#"{"status":"failed","error":{"code":"server_error","message":"no"}}"#,
            "the provider answered with an error: no",
        ),
        (Responses, Chat, r#"{"status":"queued","output":[]}"#, "the response is `queued`"),
        (Responses, Chat, "{}", "the reply has no `output`"),
    ] {
        let error = wire::convert_reply(from, to, body.as_bytes(), &wire::Shown::default()).expect_err(body);
        assert_eq!(error.message, problem, "{body}");
        assert_eq!(error.error.is_some(), problem.contains("answered with an error"), "{body}");
    }
}
