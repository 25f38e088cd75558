"""world_model: artifacts/latents → artifacts/world_model, the Cosmos-Predict2 transformer."""

from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel

from world2act.core.params import Params, WorldModel
from world2act.core.seeds import derive
from world2act.core.stage import ARTIFACTS, Metrics, is_main, run_stage
from world2act.core.storage import atomic_directory, sha256, write_json
from world2act.data.latent_cache import open_latents
from world2act.training.dry_run import build_or_outline, must_train
from world2act.training.loop import train
from world2act.world_model.learning.loss import DenoisingObjective
from world2act.world_model.learning.preparation import describe
from world2act.world_model.learning.tuning import merge, save_adapter, tune
from world2act.world_model.parts.clips import usable_clips
from world2act.world_model.parts.conditioning import LatentSpace
from world2act.world_model.parts.guardrail import open_guardrail
from world2act.world_model.parts.transformer import build_transformer


def main(params: Params) -> Metrics:
    section, seed = params.world_model, derive(params.base.seed, "world_model")
    cache = open_latents(ARTIFACTS / "latents")
    training, heldout = (usable_clips(cache, subset, section.max_latents) for subset in ("train", "heldout"))
    config = describe(section, cache, training.clips) | {"latents_sha256": sha256(ARTIFACTS / "latents")}
    open_guardrail(config).check(cache.prompts)

    def build(parameters: WorldModel) -> CosmosTransformer3DModel:
        channels, text_dim = cache.latent_shape[0], cache.prompt_embeds.shape[2]
        return tune(build_transformer(parameters, channels, text_dim, seed), parameters, seed)

    must_train(section.tuning, "world_model.tuning")
    random = section.model_copy(update={"weights": None})
    network = build_or_outline(lambda: build(section), lambda: build(random), section.training)
    if section.tuning == "none":
        weights = ema = network.state_dict()
    else:
        objective = DenoisingObjective(
            network,
            cache,
            training.clips,
            LatentSpace.of(config),
            conditioning_latents=section.conditioning_latents,
            text_dropout=section.text_dropout,
            high_sigma_share=section.high_sigma_share,
            seed=seed,
        )
        trained = train(objective, section.training, name="world_model", base=params.base)
        weights, ema = trained.weights, trained.ema
        if section.tuning == "lora" and is_main():
            weights, ema = merge(network, weights), merge(network, ema)
    if not is_main():
        return {}
    saved = type(network).from_config(network.config)
    assert isinstance(saved, CosmosTransformer3DModel)  # without `return_unused_kwargs` it is no tuple
    with atomic_directory(ARTIFACTS / "world_model") as directory:
        for name, state in (("transformer_raw", weights), ("transformer", ema)):
            saved.load_state_dict(state)
            saved.save_pretrained(directory / name)
        if section.tuning == "lora":
            save_adapter(network, trained.ema, directory / "lora")
        write_json(directory / "config.json", config)
    return {
        "train_clips": len(training.clips),
        "heldout_clips": len(heldout.clips),
        "discarded_train_clips": training.discarded,
        "discarded_heldout_clips": heldout.discarded,
    }


if __name__ == "__main__":
    run_stage("world_model", main)
