"""EA-KD's weights of samples."""

from service.spec.fields import Section
from service.spec.losses.temperatures import Temperature


class EntropyWeights(Section):
    """Each sample's losses x H_t (1 + H_s / ln K) / 2, arXiv 2311.13621.

    H_t and H_s are the entropies of the teacher's and the student's softened predictions.
    """

    temperature: Temperature = 3.0
    """Softmax temperature of the predictions; 2 on ImageNet."""
