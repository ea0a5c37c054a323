// Every word of the page, in English and Korean, and how an element is given one.

const WORDS = {
  en: {
    skip: "Skip to the task",
    playground: "playground",
    key: "API key",
    theme: "Dark or light",
    language: "한국어",
    tasks: "Tasks",
    connecting: "Connecting …",
    ready: "Ready",
    away: "No answer from the server",
    "away-why": "The server does not answer. Is it still running?",
    "try-again": "Try again",
    "no-tasks": "This server has no tasks.",
    "key-title": "This server wants a key",
    "key-why": "Whoever runs the server set it with --api-key. It is kept in this tab only, and goes nowhere but to this server.",
    "key-wrong": "The server does not take this key.",
    "key-use": "Use it",
    "key-forget": "Forget it",
    "kind-text": "writes text",
    "kind-label": "chooses a label",
    "kind-fill": "fills gaps",
    "kind-chat": "converses",
    input: "Input",
    optional: "may be left out",
    "json-list": "as JSON",
    "not-json": "This is not JSON: {why}",
    "not-a-number": "This is not a number.",
    sample: "Sample",
    "sample-title": "Put the task's sample in again",
    "insert-mask": "Insert {mask}",
    run: "Run",
    stop: "Stop",
    options: "Options",
    "options-more": "More options",
    "options-as": "as the task says",
    "options-changed": "{n} changed",
    "options-reset": "Back to the task's own",
    "one-a-line": "one a line; \\n is a line break",
    none: "none",
    off: "off",
    random: "random",
    max_new_tokens: "Most new tokens",
    temperature: "Temperature",
    "temperature-hint": "0 takes the likeliest token",
    top_p: "Top p",
    top_k: "Top k",
    repetition_penalty: "Repetition penalty",
    seed: "Seed",
    stop_texts: "Stop texts",
    answer: "Answer",
    "answer-empty": "The answer appears here, token by token.",
    "answer-empty-label": "How likely each label is appears here.",
    "answer-empty-fill": "What the model would put into each gap appears here.",
    writing: "Writing …",
    thinking: "Reading the prompt …",
    "blank-answer": "The model answered with nothing.",
    copy: "Copy",
    copied: "Copied",
    "end-stop": "Finished",
    "end-length": "Cut at the most new tokens",
    "end-stopped": "You stopped it",
    "end-other": "Ended: {reason}",
    "speed": "tokens/s",
    "first": "to first token",
    "whole": "in all",
    "written": "written",
    "read": "read",
    "written-tokens": "{n} tokens",
    gap: "Gap {n}",
    error: "That did not work",
    "error-busy": "The server is busy.",
    "error-wait": "Try again in {n} s",
    "error-lost": "The connection broke off. What came before is kept.",
    prompt: "The prompt",
    code: "In code",
    "prompt-note": "What the model is given, token by token.",
    "prompt-tokens": "{n} tokens",
    "prompt-tokens-of": "{n} of {most} tokens",
    "prompt-ids": "Token ids",
    "prompt-wait": "Fill the columns to see the prompt.",
    "means-part": "part of the next character",
    "means-own": "your text",
    "means-frame": "the task's text",
    "means-control": "control token",
    "curl": "curl",
    "python": "Python",
    "openai": "OpenAI client",
    "code-key": "The key is read from the variable LMKIT_API_KEY.",
    history: "This session",
    "history-clear": "Clear",
    "system": "System message",
    "system-none": "none",
    "system-hint": "What the model is told before the conversation",
    "user": "You",
    "assistant": "Model",
    "tool": "Tool",
    "chat-empty": "Say something to begin.",
    "chat-log": "Conversation",
    "chat-new": "New chat",
    "message": "Message",
    "send": "Send",
    edit: "Edit",
    "edit-send": "Save and send",
    save: "Save",
    cancel: "Cancel",
    again: "Write again",
    keys: "Enter sends, Shift+Enter breaks the line",
  },
  ko: {
    skip: "태스크로 건너뛰기",
    playground: "플레이그라운드",
    key: "API 키",
    theme: "어둡게 또는 밝게",
    language: "English",
    tasks: "태스크",
    connecting: "연결하는 중 …",
    ready: "준비됨",
    away: "서버가 응답하지 않음",
    "away-why": "서버가 응답하지 않습니다. 아직 실행 중인가요?",
    "try-again": "다시 시도",
    "no-tasks": "이 서버에는 태스크가 없습니다.",
    "key-title": "이 서버에는 키가 필요합니다",
    "key-why": "서버를 연 사람이 --api-key로 정한 키입니다. 이 탭에만 보관되고 이 서버에만 보냅니다.",
    "key-wrong": "서버가 이 키를 받아들이지 않습니다.",
    "key-use": "사용",
    "key-forget": "지우기",
    "kind-text": "글 쓰기",
    "kind-label": "레이블 고르기",
    "kind-fill": "빈칸 채우기",
    "kind-chat": "대화",
    input: "입력",
    optional: "비워도 됨",
    "json-list": "JSON으로",
    "not-json": "JSON이 아닙니다: {why}",
    "not-a-number": "숫자가 아닙니다.",
    sample: "예시",
    "sample-title": "태스크의 예시로 되돌리기",
    "insert-mask": "{mask} 넣기",
    run: "실행",
    stop: "멈춤",
    options: "옵션",
    "options-more": "더 많은 옵션",
    "options-as": "태스크의 기본값",
    "options-changed": "{n}개 바꿈",
    "options-reset": "태스크의 기본값으로",
    "one-a-line": "한 줄에 하나씩, \\n은 줄바꿈",
    none: "없음",
    off: "끔",
    random: "무작위",
    max_new_tokens: "새 토큰 최대 개수",
    temperature: "온도",
    "temperature-hint": "0이면 가장 그럴듯한 토큰만",
    top_p: "Top p",
    top_k: "Top k",
    repetition_penalty: "반복 벌점",
    seed: "시드",
    stop_texts: "멈춤 문구",
    answer: "답",
    "answer-empty": "답이 토큰마다 여기에 나타납니다.",
    "answer-empty-label": "레이블마다의 확률이 여기에 나타납니다.",
    "answer-empty-fill": "빈칸마다 모델이 고른 말이 여기에 나타납니다.",
    writing: "쓰는 중 …",
    thinking: "프롬프트를 읽는 중 …",
    "blank-answer": "모델이 빈 답을 냈습니다.",
    copy: "복사",
    copied: "복사됨",
    "end-stop": "끝까지 씀",
    "end-length": "새 토큰 최대 개수에서 잘림",
    "end-stopped": "직접 멈춤",
    "end-other": "끝난 까닭: {reason}",
    "speed": "토큰/초",
    "first": "첫 토큰까지",
    "whole": "전체",
    "written": "씀",
    "read": "읽음",
    "written-tokens": "토큰 {n}개",
    gap: "빈칸 {n}",
    error: "실패했습니다",
    "error-busy": "서버가 바쁩니다.",
    "error-wait": "{n}초 뒤에 다시 시도",
    "error-lost": "연결이 끊겼습니다. 그때까지 온 글은 남아 있습니다.",
    prompt: "프롬프트",
    code: "코드로",
    "prompt-note": "모델이 받는 그대로, 토큰마다.",
    "prompt-tokens": "토큰 {n}개",
    "prompt-tokens-of": "토큰 {most}개 중 {n}개",
    "prompt-ids": "토큰 번호",
    "prompt-wait": "열을 채우면 프롬프트가 보입니다.",
    "means-part": "다음 글자의 일부",
    "means-own": "입력한 글",
    "means-frame": "태스크의 글",
    "means-control": "제어 토큰",
    "curl": "curl",
    "python": "Python",
    "openai": "OpenAI 클라이언트",
    "code-key": "키는 환경 변수 LMKIT_API_KEY에서 읽습니다.",
    history: "이번 세션",
    "history-clear": "비우기",
    "system": "시스템 메시지",
    "system-none": "없음",
    "system-hint": "대화에 앞서 모델에게 해 두는 말",
    "user": "나",
    "assistant": "모델",
    "tool": "도구",
    "chat-empty": "말을 걸어 보세요.",
    "chat-log": "대화",
    "chat-new": "새 대화",
    "message": "메시지",
    "send": "보내기",
    edit: "고치기",
    "edit-send": "고쳐서 보내기",
    save: "저장",
    cancel: "취소",
    again: "다시 쓰기",
    keys: "Enter로 보내고 Shift+Enter로 줄을 바꿉니다",
  },
};

const root = document.documentElement;

/** The language that the page speaks: "en" or "ko". */
export const language = () => (root.lang === "ko" ? "ko" : "en");

/** A word in the page's language, with its `{places}` filled; an unknown word is itself. */
export function say(word, values = {}) {
  const text = WORDS[language()][word] ?? word;
  return text.replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place);
}

/** Whether there is such a word. */
export const isWord = (word) => Object.hasOwn(WORDS.en, word);

const NAMES = ["aria-label", "title", "placeholder"];

/** Write an element's own words into it, in the page's language. */
export function speak(element) {
  const { word, values } = element.dataset;
  if (word) element.textContent = say(word, values ? JSON.parse(values) : {});
  for (const name of NAMES) {
    const given = element.getAttribute(`data-word-${name}`);
    if (given) element.setAttribute(name, say(given));
  }
}

/** Speak a language from now on, everywhere on the page. */
export function setLanguage(chosen) {
  root.lang = chosen;
  document.querySelectorAll("[data-word], [data-word-aria-label], [data-word-title], [data-word-placeholder]")
    .forEach(speak);
  document.dispatchEvent(new Event("spoken"));
}

/** A number as the page's language writes it. */
export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language(), { maximumFractionDigits: digits }).format(value);

/** A probability in percent: three digits that count, and never 0 % or 100 % by rounding alone. */
export function percent(value) {
  const shown = 100 * value;
  if (shown > 0 && shown < 0.01) return "<0.01%";
  if (shown < 100 && shown > 99.99) return ">99.99%";
  return `${number(shown, shown < 1 ? 2 : shown > 99 ? 2 : 1)}%`;
}

/** A time in a unit that suits it. */
export const duration = (seconds) =>
  (seconds < 1 ? `${number(1000 * seconds)} ms` : `${number(seconds, seconds < 10 ? 2 : 1)} s`);

export const words = WORDS;
