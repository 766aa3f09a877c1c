"""Published top-1 accuracies in percent, by pair and method; a dash where none is known.

Sources: the tables of arXiv 2402.11148 (none, kd, dkd, dist, ttm), 2211.16231 (ctkd of the first
six pairs), 2403.01427 (all other ctkd, kd, mlkd and what ends in -ls), 2408.07703 (rld), 2311.13621
(ea-kd), 2412.08139 (wkd) and 2507.15911 (ldrld). ImageNet: what each method's authors report; none
and kd as in arXiv 2203.08679.
"""

CIFAR100 = """
pair                     none  kd    dkd   ctkd  dist  rld   mlkd  ls    dkd-ls ctkd-ls mlkd-ls
resnet56-resnet20        69.06 70.66 71.97 71.19 71.75 72.00 72.19 71.43 72.32  71.34   72.33
resnet110-resnet32       71.14 73.08 74.11 73.52 73.69 74.02 74.11 74.17 74.29  74.01   74.32
resnet110-resnet20       69.06 70.67 -     70.99 71.65 71.67 -     71.48 71.85  71.39   72.27
wrn_40_2-wrn_16_2        73.26 74.92 76.24 75.45 75.51 76.02 76.63 76.11 76.39  76.08   76.95
wrn_40_2-wrn_40_1        71.98 73.54 74.81 73.93 74.73 74.88 75.35 74.37 74.89  74.58   75.56
vgg13-vgg8               70.36 72.98 74.68 73.52 73.89 74.93 75.18 74.36 74.81  74.47   75.22
resnet32x4-resnet8x4     72.50 73.33 76.32 73.39 76.31 76.64 77.08 76.62 77.01  76.67   78.28
vgg13-mobilenet_v2       64.60 67.37 69.71 68.50 68.50 69.97 70.57 68.61 69.98  68.98   70.94
resnet50-mobilenet_v2    64.60 67.35 70.35 68.67 68.66 70.76 71.04 69.02 70.45  69.36   71.19
resnet32x4-shufflenet_v1 70.50 74.07 76.45 -     76.34 -     -     -     -      -       -
resnet32x4-shufflenet_v2 71.82 74.45 77.07 75.37 77.35 77.56 78.44 75.56 77.37  76.18   78.76
wrn_40_2-shufflenet_v1   70.50 74.83 76.70 -     76.40 -     -     -     -      -       -
resnet32x4-wrn_16_2      73.26 74.90 -     74.57 -     -     -     75.26 76.19  75.16   77.53
resnet32x4-wrn_40_2      75.61 77.70 -     77.66 -     -     -     77.92 78.95  77.99   79.66
wrn_40_2-resnet8x4       72.50 73.97 -     74.61 -     76.12 -     77.11 76.75  77.03   77.68
wrn_40_2-mobilenet_v2    64.60 68.36 -     68.34 -     -     -     69.23 70.01  69.53   71.61

pair                     ttm   ea-kd wkd   ldrld
vgg13-vgg8               74.33 -     -     -
resnet32x4-resnet8x4     -     75.46 76.53 77.20
wrn_40_2-shufflenet_v1   -     -     76.72 -
"""
IMAGENET = """
pair                  none  kd    ctkd  ls    dkd   mlkd  nkd   dist  wttm  ea-kd rld   gkl   wkd
resnet34-resnet18     69.75 71.03 71.32 71.42 71.70 71.90 71.96 72.07 72.19 71.79 71.91 71.91 72.49
resnet50-mobilenet_v1 68.87 70.50 -     72.18 72.05 73.01 72.58 73.24 73.09 -     72.75 72.92 73.17
"""


def _parsed(benchmark: str, text: str) -> dict[str, float]:
    """Accuracies by the recipes' names; each table of ``text`` starts with the methods' names."""
    accuracies = {}
    for table in text.strip().split("\n\n"):
        (_, *methods), *rows = (line.split() for line in table.splitlines())
        for pair, *cells in rows:
            for method, cell in zip(methods, cells, strict=True):
                if cell != "-":
                    accuracies[f"{benchmark}/{pair}/{method}"] = float(cell)
    return accuracies


TOP1 = _parsed("cifar100", CIFAR100) | _parsed("imagenet", IMAGENET)
"""Top-1 accuracy in percent, by the name of a recipe."""
