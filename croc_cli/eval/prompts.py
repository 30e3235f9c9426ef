"""How a checkpoint is asked when it is scored: in the template it was trained in, LLaVA-1.5's where it does not say."""

from croc_cli.checkpoint.load import LoadedModel
from croc_cli.data.conversation import ConversationEncoder
from croc_cli.model.vision_tower import num_visual_tokens
from croc_cli.recipe.template_options import TemplateOptions


def evaluation_encoder(model: LoadedModel) -> ConversationEncoder:
    """Return the encoder of a loaded model's conversations, as long as its LLM has positions."""
    config = model.llava.config
    return ConversationEncoder(
        model.processor.tokenizer,
        template=model.metadata.template or "vicuna_v1",
        image_token_id=config.image_token_id,
        num_visual_tokens=num_visual_tokens(config),
        max_length=config.text_config.max_position_embeddings,
        options=TemplateOptions(model.metadata.system_prompt),
    )
