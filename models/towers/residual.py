"""The residual block of ResNet-18 (He et al. 2016): torchvision's names of weights, without the seconds that torchvision loads."""

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a way around them."""

    def __init__(self, channels: int, out: int, stride: int, downsample: nn.Module | None) -> None:
        """Build the block.

        Args:
            channels: of its input.
            out: channels of its output.
            stride: of the first convolution.
            downsample: brings the input to the output's shape; None where they are alike.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride)."""
        around = x if self.downsample is None else self.downsample(x)
        inside = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))  # (B, out, H / stride, W / stride)
        return self.relu(inside + around)
