"""A NeMo Curator stage that scores a batch of images: pipeline.add_stage(QualityStage())."""

from dataclasses import dataclass, field

from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.resources import Resources
from nemo_curator.tasks import ImageBatch

from metaqap_fast import Scorer


@dataclass
class QualityStage(ProcessingStage[ImageBatch, ImageBatch]):
    """Puts quality and uncertainty into the metadata of each image; drops those under `threshold`."""

    threshold: float = 0.0
    options: dict = field(default_factory=dict)
    name: str = "metaqap_fast_quality"
    resources: Resources = field(default_factory=lambda: Resources(cpus=1.0))

    def setup(self, _worker: object = None) -> None:
        """Once on each worker."""
        self.scorer = Scorer(**self.options)

    def process(self, task: ImageBatch) -> ImageBatch:
        """Score what the reader has decoded."""
        for image, row in zip(task.data, self.scorer.score_arrays(i.image_data for i in task.data), strict=True):
            image.metadata |= {"quality": row.score, "quality_uncertainty": row.uncertainty}
        task.data = [image for image in task.data if image.metadata["quality"] >= self.threshold]
        return task
