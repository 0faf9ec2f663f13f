"""A served model that tells the log-probabilities of what it writes, in the forms that servers have for that."""

from collections.abc import Mapping

import torch
from tests.fakes.openai_server import Fake, Tiny

from limbeck.data.sequences import prompted
from limbeck.data.spelling import spelling


class Reciter(Tiny):
    """Knows some texts nearly by heart: on each beginning of one, the next token gets ``sure`` more."""

    def __init__(self, texts, classes, sure=15.0):
        super().__init__(0, classes)
        self.sure = sure
        self.next: Mapping = {tuple(text[:at]): text[at] for text in texts for at in range(1, len(text))}

    def forward(self, input_ids, attention_mask=None):
        logits = super().forward(input_ids, attention_mask).clone()
        for row, ids in enumerate(input_ids.tolist()):
            for at in range(len(ids)):
                if (token := self.next.get(tuple(ids[: at + 1]))) is not None:
                    logits[row, at, token] += self.sure
        return logits


class Speaker(Fake):
    """Goes on with prompts as `limbeck.data.sequences.prompted` reads them.

    Args:
        model: next-token logits over the tokenizer's vocabulary.
        tokenizer: its own.
        named: what tokens are called: ``bytes`` (with letters beside them), ``letters`` (U+FFFD for what is none), ``numbers``.
        end: whether the end is told of, as the token that it is.
        after: whether it tells the log-probabilities after the temperature, as SGLang does by default.
        most: of the likeliest tokens it tells so many at most; None: none at all, not even of the written.
    """

    def __init__(self, model, tokenizer, named="bytes", end=True, after=False, most=20):
        super().__init__(model, longest=None)
        self.tokenizer, self.named, self.end, self.after, self.most = tokenizer, named, end, after, most

    def _texts(self, path, body):
        chat = path.endswith("/chat/completions")
        head = prompted(self.tokenizer, body["messages"][-1]["content"] if chat else body["prompt"])
        top = body.get("top_logprobs") if chat else body.get("logprobs")
        choices, written = [], 0
        for index in range(body.get("n", 1)):
            generator = torch.Generator().manual_seed(body.get("seed", 0) + index)
            tokens, told, finish = self._write(head, body["max_tokens"], body["temperature"], generator)
            written += len(told)
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            one = {"index": index, "finish_reason": finish}
            one |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            if top and self.most is not None:
                one["logprobs"] = (self._chat if chat else self._completion)(told, min(top, self.most))
            choices.append(one)
        return choices, len(head), written

    def _write(self, head, most, temperature, generator):
        tokens, told = [], []
        while len(tokens) < most:
            with torch.no_grad():
                logits = self.model(torch.tensor([head + tokens]))[0, -1].double()
            drawn_by = torch.log_softmax(logits / (temperature or 1.0), -1)
            token = (
                int(torch.multinomial(drawn_by.exp(), 1, generator=generator)) if temperature else int(logits.argmax())
            )
            ended = token == self.tokenizer.eos_token_id
            if not ended or self.end:
                told.append((token, drawn_by if self.after else torch.log_softmax(logits, -1)))
            if ended:
                return tokens, told, "stop"
            tokens.append(token)
        return tokens, told, "length"

    def _letters(self, token):
        if self.named == "numbers":
            return f"token_id:{token}"
        return self.tokenizer.decode([token], clean_up_tokenization_spaces=False)

    def _entry(self, token, logs):
        entry = {"token": self._letters(token), "logprob": float(logs[token]), "bytes": None}
        if self.named == "bytes":
            entry["bytes"] = list(self._spelled(token))
        return entry

    def _spelled(self, token):
        return spelling(self.tokenizer).tokens[token].content

    def _chat(self, told, top):
        return {
            "content": [
                self._entry(token, logs)
                | {"top_logprobs": [self._entry(one, logs) for one in logs.topk(min(top, len(logs))).indices.tolist()]}
                for token, logs in told
            ]
        }

    def _completion(self, told, top):
        return {
            "tokens": [self._letters(token) for token, _ in told],
            "token_logprobs": [float(logs[token]) for token, logs in told],
            "top_logprobs": [
                {self._letters(one): float(logs[one]) for one in logs.topk(min(top, len(logs))).indices.tolist()}
                for _, logs in told
            ],
        }
