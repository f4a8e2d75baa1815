//! Clients that can't run in a test: what their makers' programs and servers send, request by request, over real
//! sockets. It is known
//!
//! | client | from |
//! | --- | --- |
//! | Claude | claude.com/docs/connectors/building/authentication and its troubleshooting page; captures of its calls |
//! | Claude Code | its document claude.ai/oauth/claude-code-client-metadata, and reports about its ports |
//! | ChatGPT | developers.openai.com/apps-sdk/build/auth |
//! | VS Code | `src/vs/base/common/oauth.ts` and `extHostAuthentication.ts` of its repository |
//! | Cursor | cursor.com/docs/context/mcp, and captures of its registration |

mod chatgpt;
mod claude;
mod claude_code;
mod cursor;
mod vscode;
mod wire;
