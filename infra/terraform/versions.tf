terraform {
  # 1.9: a validation may read another variable
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.86, < 7"
    }
  }

  # The state contains the names of the bucket and the roles, but no key. Keep it where the team can lock it:
  #   terraform init -backend-config=bucket=... -backend-config=key=world2act -backend-config=region=...
  backend "s3" {
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = var.tags
  }
}
