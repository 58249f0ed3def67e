"""
# Classifiers and taggers of labml_mlm for Hugging Face

This file needs torch, transformers, and `modeling_labml_mlm.py` beside it.

    AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True)

The encoder is one of Hugging Face's, such as BERT, or that of labml_mlm. Of its hidden states the head takes the mean
over all tokens that are no padding, or tanh of a linear layer of the first one; or each of them, for labels of tokens.
A linear layer makes logits of that. Tensors are batch-first.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

from .modeling_labml_mlm import LabmlMLMConfig, LabmlMLMModel


class LabmlMLMHeadConfig(PretrainedConfig):
    """
    ## An encoder and a head

    * `encoder` is the `config.json` of the encoder
    * `pooling` is `mean` or `cls`; `None` for labels of tokens
    """
    model_type = 'labml_mlm_head'

    def __init__(self, encoder=None, pooling='mean', head_dropout=0.1, **kwargs):
        self.encoder = encoder or {'model_type': 'labml_mlm', 'hidden_size': 128}
        self.pooling = pooling
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


def build_encoder(config: LabmlMLMHeadConfig) -> PreTrainedModel:
    """An encoder, without any head."""
    values = dict(config.encoder)
    kind = values.pop('model_type')
    if kind == LabmlMLMConfig.model_type:
        return LabmlMLMModel(LabmlMLMConfig(**values))
    options = {} if kind == 'modernbert' else {'add_pooling_layer': False}
    return AutoModel.from_config(AutoConfig.for_model(kind, **values), **options)


class LabmlMLMHeadPreTrainedModel(PreTrainedModel):
    """What both models have in common."""
    config_class = LabmlMLMHeadConfig
    base_model_prefix = 'model'
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.model = build_encoder(config)
        hidden_size = config.encoder['hidden_size']
        self.pooler = nn.Linear(hidden_size, hidden_size) if config.pooling == 'cls' else None
        self.dropout = nn.Dropout(config.head_dropout)
        self.output = nn.Linear(hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Embeddings of tokens."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replaces embeddings of tokens."""
        self.model.set_input_embeddings(value)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None,
               output_hidden_states: bool | None):
        """The output of the encoder; only some have token types."""
        segments = {} if token_type_ids is None else {'token_type_ids': token_type_ids}
        return self.model(input_ids, attention_mask=attention_mask, output_hidden_states=output_hidden_states,
                          return_dict=True, **segments)


class LabmlMLMForSequenceClassification(LabmlMLMHeadPreTrainedModel):
    """The encoder, and logits of each text."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
                labels: Tensor | None = None, output_hidden_states: bool | None = None,
                return_dict: bool | None = None) -> SequenceClassifierOutput | tuple:
        """`labels` are ids or numbers, `[batch_size]`, or 1 and 0 for several labels, `[batch_size, num_labels]`."""
        output = self.encode(input_ids, attention_mask, token_type_ids, output_hidden_states)
        hidden = output.last_hidden_state
        if self.pooler is not None:
            pooled = torch.tanh(self.pooler(hidden[:, 0]))
        elif attention_mask is None:
            pooled = hidden.mean(dim=1)
        else:
            is_text = attention_mask[..., None].to(hidden.dtype)
            pooled = (hidden * is_text).sum(dim=1) / is_text.sum(dim=1)
        logits = self.output(self.dropout(pooled))
        loss = None if labels is None else self.loss_of(logits.float(), labels)
        output = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return output.to_tuple() if return_dict is False else output

    def loss_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """That of the kind of labels."""
        if self.config.problem_type == 'regression':
            return functional.mse_loss(logits.flatten(), labels.flatten().float())
        if self.config.problem_type == 'multi_label_classification':
            return functional.binary_cross_entropy_with_logits(logits, labels.float())
        return functional.cross_entropy(logits, labels.flatten())


class LabmlMLMForTokenClassification(LabmlMLMHeadPreTrainedModel):
    """The encoder, and logits of each token."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
                labels: Tensor | None = None, output_hidden_states: bool | None = None,
                return_dict: bool | None = None) -> TokenClassifierOutput | tuple:
        """`labels`, of the shape of `input_ids`, are -100 where there is nothing to predict."""
        output = self.encode(input_ids, attention_mask, token_type_ids, output_hidden_states)
        logits = self.output(self.dropout(output.last_hidden_state))
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        output = TokenClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return output.to_tuple() if return_dict is False else output
